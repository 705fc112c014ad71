"""Barriers of the grid in Gluon, and a fetch ahead of one."""

# The language of kernels is not Python: its values have no Python types.
# mypy: ignore-errors

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.language import debug_barrier  # Gluon's own name for it differs between 3.6 and 3.7

from kernels.decode_step import reference

FLAGS: gl.constexpr = gl.constexpr(reference.FLAGS)


@gluon.jit
def arrive(p_flag, generation):
    """Publish that this program has reached a barrier of the grid.

    The block's barrier puts all threads' stores before the release of thread 0, and a release is cumulative (PTX ISA,
    memory consistency model, causality order): who acquires the flag sees them all.
    """
    debug_barrier()
    gl.inline_asm_elementwise(
        """{
        .reg .pred first;
        .reg .u32 thread;
        mov.u32 thread, %tid.x;
        setp.eq.u32 first, thread, 0;
        @first st.release.gpu.global.u32 [$1], $2;
        mov.u32 $0, 0;
        }""",
        "=r,l,r", [p_flag.to(gl.int64, bitcast=True), generation], dtype=gl.int32, is_pure=False, pack=1,
    )  # fmt: skip


@gluon.jit
def wait(state, generation, polls, PROGRAMS: gl.constexpr):
    """Wait until all programs have reached a barrier; return the polls of the next wait.

    Each thread acquires the flags of some programs, and the block's barrier hands on what it saw. Generations are
    compared by their difference, which may wrap. A thread that polls in vain sets the error and leaves; whoever sees
    an error polls no more in this launch, so that a program which never came cannot hang the GPU.
    """
    polls = gl.inline_asm_elementwise(
        """{
        .reg .pred done;
        .reg .u32 program, seen, left, threads;
        .reg .u64 address;
        mov.u32 left, $4;
        mov.u32 program, %tid.x;
        mov.u32 threads, %ntid.x;
        NEXT:
        setp.ge.u32 done, program, $5;
        @done bra END;
        mad.wide.u32 address, program, 4, $2;
        POLL:
        ld.acquire.gpu.global.u32 seen, [address];
        sub.u32 seen, seen, $3;
        setp.ge.s32 done, seen, 0;
        @done bra PASSED;
        setp.eq.u32 done, left, 0;
        @done bra END;
        sub.u32 left, left, 1;
        setp.eq.u32 done, left, 0;
        @done st.relaxed.gpu.global.u32 [$1], 1;
        and.b32 seen, left, 1023;
        setp.ne.u32 done, seen, 0;
        @done bra POLL;
        ld.relaxed.gpu.global.u32 seen, [$1];
        setp.ne.u32 done, seen, 0;
        @done mov.u32 left, 0;
        bra POLL;
        PASSED:
        add.u32 program, program, threads;
        bra NEXT;
        END:
        setp.eq.u32 done, left, 0;
        selp.b32 $0, 0, $4, done;
        }""",
        "=r,l,l,r,r,r",
        [state.to(gl.int64, bitcast=True), (state + FLAGS).to(gl.int64, bitcast=True), generation, polls, PROGRAMS],
        dtype=gl.int32, is_pure=False, pack=1,
    )  # fmt: skip
    debug_barrier()
    return polls


@gluon.jit
def prefetch(pointer, count):
    """Fetch `count` elements, whole units of 16 bytes, into the L2 cache, if they are more than none."""
    size = count * (pointer.dtype.element_ty.primitive_bitwidth // 8)
    gl.inline_asm_elementwise(
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
        "=r,l,r", [pointer.to(gl.int64, bitcast=True), size], dtype=gl.int32, is_pure=False, pack=1,
    )  # fmt: skip
