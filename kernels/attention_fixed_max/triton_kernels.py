"""Triton kernel of attention with a fixed maximum: no running maximum, one division at the end.

A program owns ROWS queries of one head and frame, and loops over the keys of that frame. Exponents are small enough for
float32 without subtracting a maximum, so sums and products accumulate without rescaling.

Prefixes: `b_` tiles, `o_` offsets, `m_` masks, `i_` indices.
"""

# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

from kernels.runtime import device
from kernels.runtime.pdl import wait_for_inputs

MMA_COLUMNS: tl.constexpr = tl.constexpr(device.MMA_COLUMNS)


@triton.jit
def _rows(
    x, i_row, i_column, m_row, WIDTH: tl.constexpr, DIM: tl.constexpr, ROWS: tl.constexpr, DESCRIPTORS: tl.constexpr
):  # fmt: skip
    """Load (ROWS, DIM) of a head from row i_row on; without DESCRIPTORS, rows outside of m_row (ROWS,) are zero."""
    if DESCRIPTORS:
        b_x = x.load([i_row, i_column])
    else:
        o_x = tl.arange(0, ROWS)[:, None] * WIDTH + tl.arange(0, DIM)[None, :]
        b_x = tl.load(x + tl.cast(i_row, tl.int64) * WIDTH + i_column + o_x, mask=m_row[:, None], other=0.0)
    return b_x


@triton.jit(do_not_specialize=["positions"])
def attention_fixed_max_kernel(
    queries, keys, out, positions,
    HEADS: tl.constexpr, DIM: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, RAGGED: tl.constexpr,
    DESCRIPTORS: tl.constexpr, STAGES: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Attend for ROWS positions of one head: out = sum_j 2^(q.k_j) v_j / sum_j 2^(q.k_j).

    Args:
        queries, keys: both qkv (M, 3 HEADS DIM), as pointers or with descriptors of their tiles.
        out: (M, HEADS DIM).
        RAGGED: KEYS does not divide `positions`.
    """
    wait_for_inputs(PDL)
    WIDTH: tl.constexpr = HEADS * DIM
    tiles = tl.cdiv(positions, ROWS)
    i_tile, i_pair = tl.program_id(0) % tiles, tl.program_id(0) // tiles
    i_frame, i_head = i_pair // HEADS, i_pair % HEADS
    i_first = i_frame * positions
    o_m, o_n = i_tile * ROWS + tl.arange(0, ROWS), tl.arange(0, KEYS)
    b_q = _rows(queries, i_first + i_tile * ROWS, i_head * DIM, o_m < positions, 3 * WIDTH, DIM, ROWS, DESCRIPTORS)
    # (ROWS, DIM); (ROWS, MMA_COLUMNS), reduced after the loop, which saves exchanges between threads
    b_out, b_sum = tl.zeros((ROWS, DIM), tl.float32), tl.zeros((ROWS, MMA_COLUMNS), tl.float32)
    for i_key in tl.range(0, positions, KEYS, num_stages=STAGES):
        m_n = i_key + o_n < positions
        b_k = _rows(keys, i_first + i_key, WIDTH + i_head * DIM, m_n, 3 * WIDTH, DIM, KEYS, DESCRIPTORS)
        b_v = _rows(keys, i_first + i_key, 2 * WIDTH + i_head * DIM, m_n, 3 * WIDTH, DIM, KEYS, DESCRIPTORS)
        # (ROWS, KEYS)
        b_p = tl.exp2(tl.dot(b_q, tl.trans(b_k)))
        if RAGGED:
            b_p = tl.where(m_n[None, :], b_p, 0.0)
            if DESCRIPTORS:  # a tile reaches into the next frame, whose values may be NaN
                b_v = tl.where(m_n[:, None], b_v, 0.0)
        b_sum += tl.sum(tl.reshape(b_p, (ROWS, KEYS // MMA_COLUMNS, MMA_COLUMNS)), 1)
        b_out = tl.dot(b_p.to(b_v.dtype), b_v, b_out)
    b_out *= (1.0 / tl.sum(b_sum, 1))[:, None]
    o_out = o_m[:, None] * WIDTH + tl.arange(0, DIM)[None, :]
    p_out = out + tl.cast(i_first, tl.int64) * WIDTH + i_head * DIM
    tl.store(p_out + o_out, b_out.to(out.dtype.element_ty), mask=(o_m < positions)[:, None])
