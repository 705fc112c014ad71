"""Triton kernels that prepare queries or keys: rotate, l2-normalise and scale in one pass over memory.

A program owns ROWS (position, head) rows and splits their channels into the pairs that rotate together. Let r be the
rotated vector, u = r / |r|, s the learned scale and g the upstream gradient. Forward computes s u. Backward computes

    du = s g,  dr = (du - u (u.du)) / |r|, rotated back for dx,  ds = sum g u

Prefixes: `b_` tiles, `o_` offsets, `m_` masks, `p_` pointers, `i_` indices; `_x` and `_y` are the halves of a pair.
"""

# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

MIN_NORM: tl.constexpr = tl.constexpr(1e-12)  # as torch.nn.functional.normalize


@triton.jit
def _pairs(b_x, ROWS: tl.constexpr, BLOCK_D: tl.constexpr):
    """Return the even and the odd channels (ROWS, BLOCK_D / 2) of a tile (ROWS, BLOCK_D), float32."""
    return tl.split(tl.reshape(b_x.to(tl.float32), (ROWS, BLOCK_D // 2, 2)))


@triton.jit
def _angles(cos, sin, o_position, m_row, DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    """Load the cosines and sines (ROWS, BLOCK_D / 2) of the rows' positions."""
    o_pair = tl.arange(0, BLOCK_D // 2)
    o_angle = o_position[:, None] * (DIM // 2) + o_pair[None, :]
    m_angle = m_row[:, None] & (o_pair < DIM // 2)[None, :]
    return tl.load(cos + o_angle, mask=m_angle, other=1.0), tl.load(sin + o_angle, mask=m_angle, other=0.0)


@triton.jit
def _load_rows(
    x, rows, x_frame, x_pixel, HEADS: tl.constexpr, DIM: tl.constexpr, BLOCK_D: tl.constexpr, ROWS: tl.constexpr
):  # fmt: skip
    """Return the program's frame, offsets and masks, and its tile (ROWS, BLOCK_D)."""
    i_frame = tl.program_id(1).to(tl.int64)
    o_row, o_dim = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, BLOCK_D)
    m_row = o_row < rows
    # (ROWS, BLOCK_D)
    mask = m_row[:, None] & (o_dim < DIM)[None, :]
    p_x = x + i_frame * x_frame + (o_row // HEADS).to(tl.int64)[:, None] * x_pixel
    b_in = tl.load(p_x + (o_row % HEADS)[:, None] * DIM + o_dim[None, :], mask=mask, other=0.0)
    return i_frame, o_row, o_dim, m_row, mask, b_in


@triton.jit(do_not_specialize=["rows"])
def cosine_fwd_kernel(
    x, scale, cos, sin, out, rows, x_frame, x_pixel,
    HEADS: tl.constexpr, DIM: tl.constexpr, BLOCK_D: tl.constexpr, ROTATED: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Compute out = s r / |r| for ROWS rows of a frame, where r is x, rotated if ROTATED.

    Args:
        x: (frames, positions, HEADS, DIM), strides `x_frame` and `x_pixel`; a position is contiguous.
        scale: (DIM,). cos, sin: (positions, DIM / 2).
        out: (frames, rows, DIM).
    """
    i_frame, o_row, o_dim, m_row, mask, b_in = _load_rows(x, rows, x_frame, x_pixel, HEADS, DIM, BLOCK_D, ROWS)
    b_x, b_y = _pairs(b_in, ROWS, BLOCK_D)
    b_inverse = 1.0 / tl.maximum(tl.sqrt(tl.sum(b_x * b_x + b_y * b_y, 1)), MIN_NORM)
    if ROTATED:
        b_cos, b_sin = _angles(cos, sin, o_row // HEADS, m_row, DIM, BLOCK_D)
        b_x, b_y = b_x * b_cos - b_y * b_sin, b_x * b_sin + b_y * b_cos
    b_scale = tl.load(scale + o_dim, mask=o_dim < DIM, other=0.0).to(tl.float32)
    b_out = tl.reshape(tl.join(b_x, b_y), (ROWS, BLOCK_D)) * b_inverse[:, None] * b_scale[None, :]
    p_out = out + i_frame * rows * DIM + o_row[:, None].to(tl.int64) * DIM + o_dim[None, :]
    tl.store(p_out, b_out.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["rows"])
def cosine_bwd_kernel(
    grad, x, scale, cos, sin, dx, dscale, rows, x_frame, x_pixel,
    HEADS: tl.constexpr, DIM: tl.constexpr, BLOCK_D: tl.constexpr, ROTATED: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Compute dx of ROWS rows, and the program's part of dscale.

    Args:
        grad, dx: (frames, rows, DIM); the others as in `cosine_fwd_kernel`.
        dscale: (programs, BLOCK_D) float32; the launch adds up the programs.
    """
    i_frame, o_row, o_dim, m_row, mask, b_in = _load_rows(x, rows, x_frame, x_pixel, HEADS, DIM, BLOCK_D, ROWS)
    o_own = i_frame * rows * DIM + o_row[:, None].to(tl.int64) * DIM + o_dim[None, :]
    b_grad = tl.load(grad + o_own, mask=mask, other=0.0).to(tl.float32)
    b_x, b_y = _pairs(b_in, ROWS, BLOCK_D)
    b_inverse = 1.0 / tl.maximum(tl.sqrt(tl.sum(b_x * b_x + b_y * b_y, 1)), MIN_NORM)
    if ROTATED:
        b_cos, b_sin = _angles(cos, sin, o_row // HEADS, m_row, DIM, BLOCK_D)
        b_x, b_y = b_x * b_cos - b_y * b_sin, b_x * b_sin + b_y * b_cos
    b_unit = tl.reshape(tl.join(b_x, b_y), (ROWS, BLOCK_D)) * b_inverse[:, None]
    i_program = i_frame * tl.num_programs(0) + tl.program_id(0)
    tl.store(dscale + i_program * BLOCK_D + o_dim, tl.sum(b_grad * b_unit, 0))
    b_du = b_grad * tl.load(scale + o_dim, mask=o_dim < DIM, other=0.0).to(tl.float32)[None, :]
    # a norm below MIN_NORM is constant
    b_along = tl.where(b_inverse < 1.0 / MIN_NORM, tl.sum(b_du * b_unit, 1), 0.0)
    b_dx, b_dy = _pairs((b_du - b_unit * b_along[:, None]) * b_inverse[:, None], ROWS, BLOCK_D)
    if ROTATED:
        b_dx, b_dy = b_dx * b_cos + b_dy * b_sin, b_dy * b_cos - b_dx * b_sin
    tl.store(dx + o_own, tl.reshape(tl.join(b_dx, b_dy), (ROWS, BLOCK_D)).to(dx.dtype.element_ty), mask=mask)
