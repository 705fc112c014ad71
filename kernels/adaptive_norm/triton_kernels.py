"""Triton kernel of the adaptive LayerNorm: a program holds rows of one item in registers, and memory is read once.

Prefixes: `b_` tiles, `o_` offsets, `m_` masks, `i_` indices.
"""

# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

from kernels.runtime.pdl import wait_for_inputs

MAX_FLOAT16: tl.constexpr = tl.constexpr(65504.0)


@triton.jit(do_not_specialize=["rows"])
def adaptive_norm_kernel(
    x, y, bias, gate, shift, scale, out, rows, gate_stride, shift_stride, scale_stride,
    EPS: tl.constexpr, C: tl.constexpr, PARTS: tl.constexpr, BIASED: tl.constexpr, ROWS: tl.constexpr,
    BLOCK_C: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Compute x += gate (sum of y + bias), then out = (x - mean) / sqrt(var(x) + EPS) (1 + scale) + shift.

    x and out are (items, rows, C), y is (PARTS, items, rows, C); without PARTS x stays. A program owns ROWS rows of one
    item.
    """
    i_item = tl.program_id(1).to(tl.int64)
    o_row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    o_channel = tl.arange(0, BLOCK_C)
    m_channel = o_channel < C
    mask = (o_row < rows)[:, None] & m_channel[None, :]
    o_x = (i_item * rows + o_row)[:, None] * C + o_channel[None, :]
    wait_for_inputs(PDL)
    # (ROWS, BLOCK_C)
    b_x = tl.load(x + o_x, mask=mask, other=0.0).to(tl.float32)
    # (BLOCK_C,), loaded before the sums wait for b_x
    b_scale = tl.load(scale + i_item * scale_stride + o_channel, mask=m_channel, other=0.0).to(tl.float32)
    b_shift = tl.load(shift + i_item * shift_stride + o_channel, mask=m_channel, other=0.0).to(tl.float32)
    if PARTS:
        b_gate = tl.load(gate + i_item * gate_stride + o_channel, mask=m_channel, other=0.0).to(tl.float32)
        b_y = tl.load(y + o_x, mask=mask, other=0.0).to(tl.float32)
        for i_part in tl.static_range(1, PARTS):
            o_part = i_part * tl.num_programs(1).to(tl.int64) * rows * C
            b_y += tl.load(y + o_part + o_x, mask=mask, other=0.0).to(tl.float32)
        if BIASED:
            b_y += tl.load(bias + o_channel, mask=m_channel, other=0.0).to(tl.float32)[None, :]
        b_x += b_gate[None, :] * b_y
        b_kept = b_x
        if x.dtype.element_ty == tl.float16:
            b_kept = tl.clamp(b_x, -MAX_FLOAT16, MAX_FLOAT16)
        tl.store(x + o_x, b_kept.to(x.dtype.element_ty), mask=mask)
    b_mean = tl.sum(b_x, 1) * (1.0 / C)
    b_centered = tl.where(mask, b_x - b_mean[:, None], 0.0)
    b_inverse = tl.rsqrt(tl.sum(b_centered * b_centered, 1) * (1.0 / C) + EPS)
    b_out = b_centered * b_inverse[:, None] * (1.0 + b_scale[None, :]) + b_shift[None, :]
    tl.store(out + o_x, b_out.to(out.dtype.element_ty), mask=mask)
