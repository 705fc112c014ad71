"""Programmatic dependent launch (PDL): a kernel starts while its predecessor still runs. Imports triton."""

# The language of kernels is not Python: its values have no Python types.
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from kernels.runtime.device import capability

PDL_MIN_CAPABILITY = (9, 0)
LINE_BYTES: tl.constexpr = tl.constexpr(128)  # of the L2 cache


@triton.jit
def wait_for_inputs(PDL: tl.constexpr):
    """Wait for the writes of earlier kernels; must precede the first load of what they write."""
    if PDL:
        gdc_wait()


@triton.jit
def start_next(PDL: tl.constexpr):
    """Let the next kernel start; it must call `wait_for_inputs`, and takes what this one leaves free."""
    if PDL:
        gdc_launch_dependents()


@triton.jit
def _fetch(address):
    """Fetch the lines of these addresses into the L2 cache."""
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [address], dtype=tl.int32, is_pure=False, pack=1
    )


@triton.jit
def start_next_after_stores(PDL: tl.constexpr):
    """Let the next kernel start when it sees what this one stored: kernels after it may read that without a wait."""
    if PDL:
        tl.debug_barrier()
        tl.inline_asm_elementwise(
            "fence.acq_rel.gpu; mov.u32 $0, 0;", "=r,r", [tl.program_id(0)], dtype=tl.int32, is_pure=False, pack=1
        )
        tl.debug_barrier()
        gdc_launch_dependents()


@triton.jit
def fetch_block(pointer, size, PDL: tl.constexpr):
    """Fetch `size` bytes, a multiple of 16, from a pointer on into the L2 cache, if they are more than none."""
    if PDL:
        tl.inline_asm_elementwise(
            """{
            .reg .pred first, some;
            .reg .u32 thread;
            mov.u32 thread, %tid.x;
            setp.eq.u32 first, thread, 0;
            setp.gt.s32 some, $2, 0;
            and.pred first, first, some;
            @first cp.async.bulk.prefetch.L2.global [$1], $2;
            mov.u32 $0, 0;
            }""",
            "=r,l,r", [pointer.to(tl.int64, bitcast=True), size], dtype=tl.int32, is_pure=False, pack=1,
        )  # fmt: skip


@triton.jit
def fetch_rows(p_rows, BYTES: tl.constexpr):
    """Fetch BYTES of constant memory from each of these pointers (rows,) into the L2 cache."""
    LINES: tl.constexpr = (BYTES + LINE_BYTES - 1) // LINE_BYTES
    o_line = tl.minimum(tl.arange(0, triton.next_power_of_2(LINES)), LINES - 1)
    _fetch(p_rows.to(tl.int64, bitcast=True)[:, None] + (o_line * LINE_BYTES)[None, :])


def pdl_options(x: Tensor) -> dict[str, bool]:
    """Return the launch options on x's device for a kernel that calls `wait_for_inputs`."""
    if x.is_cuda and capability(x.device.index) >= PDL_MIN_CAPABILITY:
        return {"PDL": True, "launch_pdl": True}
    return {"PDL": False}
