"""Triton kernel of attention along frames: a position's keys and values stay in registers, and memory is read once.

A program owns ROWS (position, head) rows of one item and unrolls frames; so few keys do not fill tensor cores.

Prefixes: `b_` tiles, `o_` offsets, `m_` masks, `i_` indices.
"""

# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

from kernels.runtime.pdl import wait_for_inputs


@triton.jit(do_not_specialize=["rows"])
def frame_attention_kernel(
    qkv, out, rows, SCALE: tl.constexpr, FRAMES: tl.constexpr, HEADS: tl.constexpr, DIM: tl.constexpr,
    BLOCK_D: tl.constexpr, ROWS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Compute out_i = sum_j p_ij v_j, p = softmax_j(q_i k_j / sqrt(DIM)); SCALE is log2(e) / sqrt(DIM).

    qkv is (items, FRAMES, positions, 3, HEADS, DIM), rows = positions * HEADS.
    """
    i_item = tl.program_id(1).to(tl.int64)
    o_row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    o_dim = tl.arange(0, BLOCK_D)
    mask = (o_row < rows)[:, None] & (o_dim < DIM)[None, :]
    o_position, o_head = o_row // HEADS, o_row % HEADS
    # (ROWS, BLOCK_D)
    o_query = (o_position * (3 * HEADS) + o_head)[:, None] * DIM + o_dim[None, :]
    wait_for_inputs(PDL)
    keys = ()
    values = ()
    for j in tl.static_range(FRAMES):
        base = qkv + (i_item * FRAMES + j) * rows * (3 * DIM)
        keys += (tl.load(base + HEADS * DIM + o_query, mask=mask, other=0.0),)
        values += (tl.load(base + 2 * HEADS * DIM + o_query, mask=mask, other=0.0),)
    for i in tl.static_range(FRAMES):
        frame = i_item * FRAMES + i
        b_query = tl.load(qkv + frame * rows * (3 * DIM) + o_query, mask=mask, other=0.0).to(tl.float32) * SCALE
        logits = ()
        b_max = tl.full((ROWS,), float("-inf"), tl.float32)
        for j in tl.static_range(FRAMES):
            logits += (tl.sum(b_query * keys[j].to(tl.float32), 1),)
            b_max = tl.maximum(b_max, logits[j])
        b_sum = tl.zeros((ROWS,), tl.float32)
        b_out = tl.zeros((ROWS, BLOCK_D), tl.float32)
        for j in tl.static_range(FRAMES):
            b_weight = tl.exp2(logits[j] - b_max)
            b_sum += b_weight
            b_out += b_weight[:, None] * values[j].to(tl.float32)
        b_out = b_out / b_sum[:, None]
        o_out = o_row[:, None] * DIM + o_dim[None, :]
        tl.store(out + frame * rows * DIM + o_out, b_out.to(out.dtype.element_ty), mask=mask)
