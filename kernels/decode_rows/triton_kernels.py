"""Triton kernels of both ends of a decode step.

Prefixes: `b_` tiles, `o_` offsets, `m_` masks, `p_` pointers, `i_` scalars.
"""

# The language of kernels is not Python: its values have no Python types.
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

from kernels.runtime.pdl import start_next, start_next_after_stores, wait_for_inputs


@triton.jit(do_not_specialize=["WIDTH", "POSITIONS", "R"])
def read_rows_kernel(
    memory_ptr, positions_ptr, slots_ptr, token_table_ptr, position_table_ptr, counts_ptr, out_ptr,
    WIDTH, POSITIONS, R,
    C: tl.constexpr, HEADER: tl.constexpr, BLOCK_C: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Compute BLOCK_C channels of out (R, C) = token_table[newest token] + position_table[its position].

    Args:
        memory_ptr: (slots, WIDTH).
        positions_ptr: (slots, POSITIONS).
        counts_ptr: (2, R), written by the first program of each row; later kernels read it before their inputs are
            complete.
    """
    wait_for_inputs(PDL)
    i_row = tl.program_id(1)
    i_slot = tl.load(slots_ptr + i_row).to(tl.int64)
    p_memory = memory_ptr + i_slot * WIDTH
    i_newest = tl.load(p_memory)
    i_place = tl.maximum(i_newest, 0)
    i_token = tl.load(p_memory + HEADER + i_place).to(tl.int64)
    i_position = tl.load(positions_ptr + i_slot * POSITIONS + i_place).to(tl.int64)
    if tl.program_id(0) == 0:
        i_known, i_end = tl.load(p_memory + 1), tl.load(p_memory + 2)
        tl.store(counts_ptr + i_row, tl.where(i_newest < i_end, i_place + 1, 0))
        tl.store(counts_ptr + R + i_row, tl.maximum(i_newest + 1 - i_known, 0))
    # (BLOCK_C,)
    o_c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    m_c = o_c < C
    b_token = tl.load(token_table_ptr + i_token * C + o_c, mask=m_c).to(tl.float32)
    b_position = tl.load(position_table_ptr + i_position * C + o_c, mask=m_c).to(tl.float32)
    tl.store(out_ptr + i_row * C + o_c, (b_token + b_position).to(out_ptr.dtype.element_ty), mask=m_c)
    start_next_after_stores(PDL)


@triton.jit(do_not_specialize=["WIDTH", "R"])
def write_rows_kernel(
    memory_ptr, slots_ptr, drawn_ptr, out_ptr, WIDTH, R,
    HEADER: tl.constexpr, BLOCK_R: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Store the drawn id after each live row's newest token unless one is known, and advance its clock.

    Args:
        memory_ptr: (slots, WIDTH), read and written.
        out_ptr: (R,), `newest` after that.
    """
    start_next(PDL)
    wait_for_inputs(PDL)
    # (BLOCK_R,)
    o_row = tl.arange(0, BLOCK_R)
    m_row = o_row < R
    p_memory = memory_ptr + tl.load(slots_ptr + o_row, mask=m_row, other=0).to(tl.int64) * WIDTH
    b_newest = tl.load(p_memory, mask=m_row, other=0)
    b_known = tl.load(p_memory + 1, mask=m_row, other=0)
    b_end = tl.load(p_memory + 2, mask=m_row, other=0)
    b_drawn = tl.load(drawn_ptr + o_row, mask=m_row, other=0).to(tl.int32)
    m_live = m_row & (b_newest < b_end)
    tl.store(p_memory + HEADER + b_newest + 1, b_drawn, mask=m_live & (b_newest + 1 >= b_known))
    tl.store(p_memory, b_newest + 1, mask=m_live)
    tl.store(out_ptr + o_row, tl.where(m_live, b_newest + 1, b_newest), mask=m_row)
