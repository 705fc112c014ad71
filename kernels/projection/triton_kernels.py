"""Triton kernel of the head's projection: x is read once and stays in registers.

Prefixes: `b_` tiles, `o_` offsets, `m_` masks.
"""

# The language of kernels is not Python: its values have no Python types, and its tuples cannot be unpacked.
# mypy: ignore-errors
# ruff: noqa: RUF005

from __future__ import annotations

import triton
import triton.language as tl

from kernels.runtime.pdl import wait_for_inputs


@triton.jit(do_not_specialize=["M"])
def project_kernel(
    x_ptr, norm_weight_ptr, norm_bias_ptr, weight_ptr, bias_ptr, out_ptr, M,
    EPS: tl.constexpr, MIN_NORM: tl.constexpr, C: tl.constexpr, D: tl.constexpr,
    NORM: tl.constexpr, SHIFT: tl.constexpr, UNIT: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """Compute y = LayerNorm(x) W^T + bias for BLOCK_M rows, and out = y / max(|y|, MIN_NORM) if UNIT.

    Args:
        x_ptr: (M, C).
        norm_weight_ptr, norm_bias_ptr: (C,), read if NORM and if SHIFT.
        weight_ptr: (D, C).
        bias_ptr: (D,).
        out_ptr: (M, D) float32.
    """
    o_m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    m_m = o_m < M
    o_c = tl.arange(0, BLOCK_C)
    wait_for_inputs(PDL)
    # (BLOCK_M, BLOCK_C) for each part of the channels, kept for the second pass over them
    b_parts = ()
    b_total = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    for part in tl.static_range(0, C, BLOCK_C):
        m_x = m_m[:, None] & (part + o_c < C)[None, :]
        b_x = tl.load(x_ptr + o_m[:, None] * C + part + o_c[None, :], mask=m_x, other=0.0).to(tl.float32)
        b_total += b_x
        b_parts = b_parts + (b_x,)
    if NORM:
        b_mean = tl.sum(b_total, axis=1) / C
        b_total = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
        for part in tl.static_range(0, C, BLOCK_C):
            b_x = tl.where((part + o_c < C)[None, :], b_parts[part // BLOCK_C] - b_mean[:, None], 0.0)
            b_total += b_x * b_x
        b_scale = tl.rsqrt(tl.sum(b_total, axis=1) / C + EPS)
        b_normed = ()
        for part in tl.static_range(0, C, BLOCK_C):
            m_c = part + o_c < C
            b_gain = tl.load(norm_weight_ptr + part + o_c, mask=m_c, other=0.0).to(tl.float32)
            b_x = (b_parts[part // BLOCK_C] - b_mean[:, None]) * b_scale[:, None] * b_gain[None, :]
            if SHIFT:
                b_x += tl.load(norm_bias_ptr + part + o_c, mask=m_c, other=0.0).to(tl.float32)[None, :]
            b_normed = b_normed + (b_x,)
        b_parts = b_normed
    # (BLOCK_M,) for each output, kept until their norm is known
    b_out = ()
    b_square = tl.zeros((BLOCK_M,), tl.float32)
    for d in tl.static_range(D):
        b_total = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
        for part in tl.static_range(0, C, BLOCK_C):
            b_w = tl.load(weight_ptr + d * C + part + o_c, mask=part + o_c < C, other=0.0).to(tl.float32)
            b_total += b_parts[part // BLOCK_C] * b_w[None, :]
        b_y = tl.sum(b_total, axis=1) + tl.load(bias_ptr + d).to(tl.float32)
        b_square += b_y * b_y
        b_out = b_out + (b_y,)
    b_norm = tl.maximum(tl.sqrt_rn(b_square), MIN_NORM)
    for d in tl.static_range(D):
        b_y = b_out[d]
        if UNIT:
            b_y = b_y / b_norm
        tl.store(out_ptr + o_m * D + d, b_y, mask=m_m)
