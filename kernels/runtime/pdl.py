"""Programmatic dependent launch: a kernel is brought up while the one before it still runs. Imports triton."""

# The language of kernels is not Python: its values have no Python types.
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_wait

from kernels.runtime.device import capability

HOPPER = (9, 0)


@triton.jit
def wait_for_inputs(OVERLAPPED: tl.constexpr):
    """Wait until what the kernels before wrote can be read; comes before the first load."""
    if OVERLAPPED:
        gdc_wait()


def overlapped(x: Tensor) -> dict[str, bool]:
    """Options of a launch on x's device of a kernel that begins with `wait_for_inputs`."""
    if x.is_cuda and capability(x.device.index) >= HOPPER:
        return {"OVERLAPPED": True, "launch_pdl": True}
    return {"OVERLAPPED": False}
