"""Triton kernel of attention within sequences: the width of a head is split into two powers of two.

Tensor cores take widths of 16 and more. A head of 72 channels becomes 64 and 16, the latter half empty, where one tile
of 128 would do 60 % more work. A program owns ROWS queries of one head and sequence, and loops over the keys.

Prefixes: `b_` tiles, `o_` offsets, `m_` masks, `p_` pointers, `i_` indices.
"""

# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

from kernels.runtime.pdl import wait_for_inputs


@triton.jit
def _load(p_x, o_row, m_row, o_dim, DIM: tl.constexpr, WIDTH: tl.constexpr):
    """Load channels of rows, zero outside."""
    mask = m_row[:, None] & (o_dim < DIM)[None, :]
    return tl.load(p_x + o_row[:, None] * WIDTH + o_dim[None, :], mask=mask, other=0.0)


@triton.jit(do_not_specialize=["length"])
def sequence_attention_kernel(
    qkv, out, length, SCALE: tl.constexpr, HEADS: tl.constexpr, DIM: tl.constexpr, MAIN: tl.constexpr,
    REST: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, STAGES: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Compute out = sum_j p_j v_j, p = softmax_j(q.k_j / sqrt(DIM)), for ROWS queries; SCALE is log2(e) / sqrt(DIM).

    Args:
        qkv: (sequences, length, 3, HEADS, DIM).
        out: (sequences, length, HEADS, DIM).
        MAIN, REST: widths of the two tiles that hold a head's channels; REST 0 for none.
    """
    WIDTH: tl.constexpr = HEADS * DIM
    i_head, i_sequence = tl.program_id(1), tl.program_id(2).to(tl.int64)
    o_m = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    o_main = tl.arange(0, MAIN)
    p_query = qkv + i_sequence * length * (3 * WIDTH) + i_head * DIM
    p_key, p_value = p_query + WIDTH, p_query + 2 * WIDTH
    wait_for_inputs(PDL)
    # (ROWS, MAIN)
    b_query = _load(p_query, o_m, o_m < length, o_main, DIM, 3 * WIDTH)
    b_out = tl.zeros((ROWS, MAIN), tl.float32)
    if REST:
        o_rest = MAIN + tl.arange(0, REST)
        # (ROWS, REST)
        b_query_rest = _load(p_query, o_m, o_m < length, o_rest, DIM, 3 * WIDTH)
        b_out_rest = tl.zeros((ROWS, REST), tl.float32)
    b_max = tl.full((ROWS,), float("-inf"), tl.float32)
    b_sum = tl.zeros((ROWS,), tl.float32)
    for i_key in tl.range(0, length, KEYS, num_stages=STAGES):
        o_n = i_key + tl.arange(0, KEYS)
        m_n = o_n < length
        # (ROWS, KEYS)
        b_logits = tl.dot(b_query, tl.trans(_load(p_key, o_n, m_n, o_main, DIM, 3 * WIDTH)))
        if REST:
            b_logits = tl.dot(b_query_rest, tl.trans(_load(p_key, o_n, m_n, o_rest, DIM, 3 * WIDTH)), b_logits)
        b_logits = tl.where(m_n[None, :], b_logits * SCALE, float("-inf"))
        b_new = tl.maximum(b_max, tl.max(b_logits, 1))
        b_fade = tl.exp2(b_max - b_new)
        b_p = tl.exp2(b_logits - b_new[:, None])
        b_max, b_sum = b_new, b_sum * b_fade + tl.sum(b_p, 1)
        b_p = b_p.to(qkv.dtype.element_ty)
        b_out = tl.dot(b_p, _load(p_value, o_n, m_n, o_main, DIM, 3 * WIDTH), b_out * b_fade[:, None])
        if REST:
            b_value = _load(p_value, o_n, m_n, o_rest, DIM, 3 * WIDTH)
            b_out_rest = tl.dot(b_p, b_value, b_out_rest * b_fade[:, None])
    b_inverse = (1.0 / b_sum)[:, None]
    p_out = out + i_sequence * length * WIDTH + i_head * DIM + o_m[:, None] * WIDTH
    mask = (o_m < length)[:, None]
    tl.store(p_out + o_main[None, :], (b_out * b_inverse).to(out.dtype.element_ty), mask=mask)
    if REST:
        mask = mask & (o_rest < DIM)[None, :]
        tl.store(p_out + o_rest[None, :], (b_out_rest * b_inverse).to(out.dtype.element_ty), mask=mask)
