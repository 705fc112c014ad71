"""Triton kernels of LayerNorm: a program holds whole rows in registers, and memory is read once.

The variance is that of the centred values, since a sum of squares minus the squared mean would cancel.

Prefixes: `b_` tiles, `o_` offsets, `m_` masks.
"""

# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

from kernels.runtime.pdl import wait_for_inputs


@triton.jit
def _offsets(rows, C: tl.constexpr, ROWS: tl.constexpr, BLOCK_C: tl.constexpr):
    """Return rows (ROWS,) and channels (BLOCK_C,) of this program, and offsets and masks (ROWS, BLOCK_C)."""
    o_row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    o_channel = tl.arange(0, BLOCK_C)
    mask = (o_row < rows)[:, None] & (o_channel < C)[None, :]
    return o_row, o_channel, o_row[:, None] * C + o_channel[None, :], mask


@triton.jit
def _center(b_x, m_channel, eps, C: tl.constexpr):
    """Return x - mean (ROWS, BLOCK_C), zero past the last channel, and 1 / deviation (ROWS,)."""
    b_mean = tl.sum(b_x, 1) * (1.0 / C)
    b_centered = tl.where(m_channel[None, :], b_x - b_mean[:, None], 0.0)
    b_variance = tl.sum(b_centered * b_centered, 1) * (1.0 / C)
    return b_centered, tl.rsqrt(b_variance + eps)


@triton.jit(do_not_specialize=["rows"])
def inverse_deviation_kernel(
    x, out, rows, eps, C: tl.constexpr, ROWS: tl.constexpr, BLOCK_C: tl.constexpr, PDL: tl.constexpr
):  # fmt: skip
    """Compute out (rows,) = 1 / sqrt(var(x) + eps) for ROWS rows."""
    o_row, o_channel, o_x, mask = _offsets(rows, C, ROWS, BLOCK_C)
    wait_for_inputs(PDL)
    # (ROWS, BLOCK_C)
    b_x = tl.load(x + o_x, mask=mask, other=0.0).to(tl.float32)
    _, b_inverse = _center(b_x, o_channel < C, eps, C)
    tl.store(out + o_row, b_inverse, mask=o_row < rows)


@triton.jit(do_not_specialize=["rows"])
def layer_norm_kernel(
    x, weight, bias, out, rows, eps,
    C: tl.constexpr, BIASED: tl.constexpr, ROWS: tl.constexpr, BLOCK_C: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Compute out (rows, C) = (x - mean) / sqrt(var(x) + eps) weight + bias for ROWS rows."""
    _, o_channel, o_x, mask = _offsets(rows, C, ROWS, BLOCK_C)
    m_channel = o_channel < C
    wait_for_inputs(PDL)
    # (ROWS, BLOCK_C)
    b_x = tl.load(x + o_x, mask=mask, other=0.0).to(tl.float32)
    # (BLOCK_C,), loaded before the sums wait for b_x
    b_weight = tl.load(weight + o_channel, mask=m_channel, other=0.0).to(tl.float32)
    if BIASED:
        b_bias = tl.load(bias + o_channel, mask=m_channel, other=0.0).to(tl.float32)
    b_centered, b_inverse = _center(b_x, m_channel, eps, C)
    b_out = b_centered * b_inverse[:, None] * b_weight[None, :]
    if BIASED:
        b_out += b_bias[None, :]
    tl.store(out + o_x, b_out.to(out.dtype.element_ty), mask=mask)
