"""Triton kernels of fused matrix products: one loop over K, three epilogues.

A program computes one tile (BLOCK_M, BLOCK_N) of the result. A PERSISTENT program computes several, and loads the next
tile during the epilogue of this one. Tiles are ordered by rows: the weights fit the L2 cache, and x is read from memory
once. BLOCK_K divides K. Rows past the last repeat the last one and are not stored.

With DESCRIPTORS, x and the weight come through the tensor memory accelerator, since Triton does not pipeline a
PERSISTENT program's loads from pointers. Results without a residual leave through it too, during the next tile.

Prefixes: `b_` tiles, `o_` offsets, `m_` masks, `p_` pointers, `i_` indices.
"""

# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

from kernels.linear import reference
from kernels.runtime.pdl import wait_for_inputs

GATE_GROUP: tl.constexpr = tl.constexpr(reference.GATE_GROUP)
MIN_NORM: tl.constexpr = tl.constexpr(1e-12)  # as torch.nn.functional.normalize
SQRT_HALF: tl.constexpr = tl.constexpr(0.7071067811865476)


@triton.jit
def _product(
    x, weight, i_row, i_column, M, N: tl.constexpr, K: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    DESCRIPTORS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Return a tile of x W^T, float32."""
    # (BLOCK_M, BLOCK_N)
    b_sum = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    if not DESCRIPTORS:
        o_k = tl.arange(0, BLOCK_K)
        o_x = tl.minimum(tl.arange(0, BLOCK_M), M - 1 - i_row)[:, None] * K + o_k[None, :]
        o_w = tl.minimum(tl.arange(0, BLOCK_N), N - 1 - i_column)[:, None] * K + o_k[None, :]
        p_x, p_w = x + tl.cast(i_row, tl.int64) * K, weight + i_column * K
    for k in range(0, K, BLOCK_K):
        if DESCRIPTORS:
            b_x, b_w = x.load([i_row, k]), weight.load([i_column, k])
        else:
            b_x, b_w = tl.load(p_x + k + o_x), tl.load(p_w + k + o_w)
        b_sum = tl.dot(b_x, tl.trans(b_w), b_sum, input_precision=PRECISION)
    return b_sum


@triton.jit
def _columns(values, i_column, N: tl.constexpr, BLOCK_N: tl.constexpr):
    """Load the values (BLOCK_N,) of a tile's columns, float32; zero past the last."""
    o_n = i_column + tl.arange(0, BLOCK_N)
    return tl.load(values + o_n, mask=o_n < N, other=0.0).to(tl.float32)


@triton.jit
def _inverses(rstd, i_row, M, BLOCK_M: tl.constexpr):
    """Load 1 / standard deviation (BLOCK_M,) of a tile's rows."""
    return tl.load(rstd + tl.minimum(i_row + tl.arange(0, BLOCK_M), M - 1))


@triton.jit
def _gated(b_value, b_gate, EXACT: tl.constexpr):
    """Return value gate Phi(gate) of two tiles, with Phi(x) = (1 + erf(x / sqrt 2)) / 2 if EXACT.

    Otherwise Phi(x) = (1 + tanh(x (a + b x^2))) / 2 with fitted a and b, since erf takes five times the instructions.
    The error of x Phi(x) is at most 2.7e-4, plus half of that from the GPU's approximate tanh.
    """
    b_half = 0.5 * b_value * b_gate
    if EXACT:
        return b_half + b_half * tl.math.erf(b_gate * SQRT_HALF)
    b_angle = b_gate * (0.8001570760425105 + 0.034700894526956697 * (b_gate * b_gate))
    b_tanh = tl.inline_asm_elementwise(
        "tanh.approx.f32 $0, $1;", "=f,f", [b_angle], dtype=tl.float32, is_pure=True, pack=1
    )
    return b_half + b_half * b_tanh


@triton.jit
def _offsets(i_row, i_column, M, N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """Return the offsets (BLOCK_M, BLOCK_N) of a tile in the result (M, N), and their mask."""
    o_m, o_n = i_row + tl.arange(0, BLOCK_M), i_column + tl.arange(0, BLOCK_N)
    mask = (o_m < M)[:, None] & (o_n < N)[None, :]
    return tl.cast(i_row, tl.int64) * N + (tl.arange(0, BLOCK_M)[:, None] * N + o_n[None, :]), mask


@triton.jit
def _write(
    b_out, out, i_row, i_column, M, N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    HALVED: tl.constexpr, DESCRIPTORS: tl.constexpr,
):  # fmt: skip
    """Store a tile (BLOCK_M, BLOCK_N); HALVED stores through descriptors take half of the shared memory."""
    if not DESCRIPTORS:
        o_out, mask = _offsets(i_row, i_column, M, N, BLOCK_M, BLOCK_N)
        tl.store(out + o_out, b_out.to(out.dtype.element_ty), mask=mask)
    elif HALVED:
        b_left, b_right = tl.split(tl.permute(tl.reshape(b_out, (BLOCK_M, 2, BLOCK_N // 2)), (0, 2, 1)))
        out.store([i_row, i_column], b_left.to(out.dtype))
        out.store([i_row, i_column + BLOCK_N // 2], b_right.to(out.dtype))
    else:
        out.store([i_row, i_column], b_out.to(out.dtype))


@triton.jit
def _gated_tile(
    i_tile, x, rstd, weight, shift, out, M, N: tl.constexpr, K: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    EXACT: tl.constexpr, HALVED: tl.constexpr, DESCRIPTORS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    across: tl.constexpr = (2 * N + BLOCK_N - 1) // BLOCK_N
    i_row, i_column = i_tile // across * BLOCK_M, i_tile % across * BLOCK_N
    b_rstd = _inverses(rstd, i_row, M, BLOCK_M)  # the load overlaps the product
    b_sum = _product(x, weight, i_row, i_column, M, 2 * N, K, BLOCK_M, BLOCK_N, BLOCK_K, DESCRIPTORS, PRECISION)
    b_sum = b_rstd[:, None] * b_sum + _columns(shift, i_column, 2 * N, BLOCK_N)[None, :]
    # (BLOCK_M, BLOCK_N / 2 / GATE_GROUP, GATE_GROUP), a value and its gate in the same thread
    b_sum = tl.permute(tl.reshape(b_sum, (BLOCK_M, BLOCK_N // 2 // GATE_GROUP, 2, GATE_GROUP)), (0, 1, 3, 2))
    b_value, b_gate = tl.split(b_sum)
    b_out = tl.reshape(_gated(b_value, b_gate, EXACT), (BLOCK_M, BLOCK_N // 2))
    _write(b_out, out, i_row, i_column // 2, M, N, BLOCK_M, BLOCK_N // 2, HALVED, DESCRIPTORS)


@triton.jit(do_not_specialize=["M"])
def gated_linear_kernel(
    x, rstd, weight, shift, out, M, N: tl.constexpr, K: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    EXACT: tl.constexpr, HALVED: tl.constexpr,
    PERSISTENT: tl.constexpr, DESCRIPTORS: tl.constexpr, PRECISION: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Compute out (M, N) = value gelu(gate), where (value, gate) = rstd x W^T + shift.

    The weight's rows (2 N, K) alternate between GATE_GROUP values and their gates.
    """
    wait_for_inputs(PDL)
    if PERSISTENT:
        tiles = tl.cdiv(M, BLOCK_M) * tl.cdiv(2 * N, BLOCK_N)
        for i_tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0), flatten=True):
            _gated_tile(
                i_tile, x, rstd, weight, shift, out, M, N, K,
                BLOCK_M, BLOCK_N, BLOCK_K, EXACT, HALVED, DESCRIPTORS, PRECISION,
            )  # fmt: skip
    else:
        _gated_tile(
            tl.program_id(0), x, rstd, weight, shift, out, M, N, K,
            BLOCK_M, BLOCK_N, BLOCK_K, EXACT, HALVED, DESCRIPTORS, PRECISION,
        )  # fmt: skip


@triton.jit
def _angles(table, i_row, positions, BLOCK_M: tl.constexpr, PAIRS: tl.constexpr):
    """Load the cosines or sines (BLOCK_M, PAIRS) of the positions of a tile's rows."""
    o_position = (i_row + tl.arange(0, BLOCK_M)) % positions
    return tl.load(table + o_position[:, None] * PAIRS + tl.arange(0, PAIRS)[None, :])


@triton.jit
def _cosine(
    b_in, b_scale, cos, sin, i_row, positions,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, DIM: tl.constexpr, ROTATED: tl.constexpr,
):  # fmt: skip
    """Rotate, l2-normalise and scale whole heads (BLOCK_M, BLOCK_N) by b_scale (BLOCK_N,)."""
    if ROTATED:  # both loads start before the first wait
        b_cos = _angles(cos, i_row, positions, BLOCK_M, DIM // 2)
        b_sin = _angles(sin, i_row, positions, BLOCK_M, DIM // 2)
    # (BLOCK_M, heads, DIM / 2) each, even and odd channels, which rotate in pairs
    b_x, b_y = tl.split(tl.reshape(b_in, (BLOCK_M, BLOCK_N // DIM, DIM // 2, 2)))
    b_inverse = tl.rsqrt(tl.maximum(tl.sum(b_x * b_x + b_y * b_y, 2), MIN_NORM * MIN_NORM))
    b_x, b_y = b_x * b_inverse[:, :, None], b_y * b_inverse[:, :, None]
    if ROTATED:
        b_cos, b_sin = tl.expand_dims(b_cos, 1), tl.expand_dims(b_sin, 1)
        b_x, b_y = b_x * b_cos - b_y * b_sin, b_x * b_sin + b_y * b_cos
    return tl.reshape(tl.join(b_x, b_y), (BLOCK_M, BLOCK_N)) * b_scale[None, :]


@triton.jit
def _attention_tile(
    i_tile, x, rstd, weight, shift, cos, sin, q_scale, k_scale, out, M, positions,
    WIDTH: tl.constexpr, DIM: tl.constexpr, K: tl.constexpr,
    NORMED: tl.constexpr, SHIFTED: tl.constexpr, COSINE: tl.constexpr, ROTATED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    HALVED: tl.constexpr, DESCRIPTORS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    N: tl.constexpr = 3 * WIDTH
    across: tl.constexpr = N // BLOCK_N
    i_row, i_column = i_tile // across * BLOCK_M, i_tile % across * BLOCK_N
    i_part = i_column // WIDTH  # 0 queries, 1 keys, 2 values; a tile is in one of them
    b_out = _product(x, weight, i_row, i_column, M, N, K, BLOCK_M, BLOCK_N, BLOCK_K, DESCRIPTORS, PRECISION)
    if NORMED > 0:
        b_out *= tl.where(i_part < NORMED, _inverses(rstd, i_row, M, BLOCK_M), 1.0)[:, None]
        if SHIFTED:
            b_out += _columns(shift, i_column, NORMED * WIDTH, BLOCK_N)[None, :]
    if COSINE:  # noqa: SIM102, a compile-time condition around one at run time
        if i_part < 2:
            o_dim = tl.arange(0, BLOCK_N) % DIM
            b_scale = tl.where(i_part == 0, tl.load(q_scale + o_dim), tl.load(k_scale + o_dim)).to(tl.float32)
            b_out = _cosine(b_out, b_scale, cos, sin, i_row, positions, BLOCK_M, BLOCK_N, DIM, ROTATED)
    _write(b_out, out, i_row, i_column, M, N, BLOCK_M, BLOCK_N, HALVED, DESCRIPTORS)


@triton.jit(do_not_specialize=["M", "positions"])
def attention_inputs_kernel(
    x, rstd, weight, shift, cos, sin, q_scale, k_scale, out, M, positions,
    WIDTH: tl.constexpr, DIM: tl.constexpr, K: tl.constexpr,
    NORMED: tl.constexpr, SHIFTED: tl.constexpr, COSINE: tl.constexpr, ROTATED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, HALVED: tl.constexpr,
    PERSISTENT: tl.constexpr, DESCRIPTORS: tl.constexpr, PRECISION: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Compute queries, keys and values (M, 3, WIDTH) = x W^T, the first NORMED of the three as rstd x W^T + shift.

    COSINE queries and keys become s r / |r|, where r is the head's vector, rotated if ROTATED. BLOCK_N divides WIDTH.
    """
    wait_for_inputs(PDL)
    if PERSISTENT:
        tiles = tl.cdiv(M, BLOCK_M) * (3 * WIDTH // BLOCK_N)
        for i_tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0), flatten=True):
            _attention_tile(
                i_tile, x, rstd, weight, shift, cos, sin, q_scale, k_scale, out, M, positions,
                WIDTH, DIM, K, NORMED, SHIFTED, COSINE, ROTATED,
                BLOCK_M, BLOCK_N, BLOCK_K, HALVED, DESCRIPTORS, PRECISION,
            )  # fmt: skip
    else:
        _attention_tile(
            tl.program_id(0), x, rstd, weight, shift, cos, sin, q_scale, k_scale, out, M, positions,
            WIDTH, DIM, K, NORMED, SHIFTED, COSINE, ROTATED,
            BLOCK_M, BLOCK_N, BLOCK_K, HALVED, DESCRIPTORS, PRECISION,
        )  # fmt: skip


@triton.jit
def _residual_tile(
    i_tile, a, weight, bias, residual, out, M, N: tl.constexpr, K: tl.constexpr, BIASED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    DESCRIPTORS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    across: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    i_row, i_column = i_tile // across * BLOCK_M, i_tile % across * BLOCK_N
    b_out = _product(a, weight, i_row, i_column, M, N, K, BLOCK_M, BLOCK_N, BLOCK_K, DESCRIPTORS, PRECISION)
    if BIASED:
        b_out += _columns(bias, i_column, N, BLOCK_N)[None, :]
    o_out, mask = _offsets(i_row, i_column, M, N, BLOCK_M, BLOCK_N)
    b_out += tl.load(residual + o_out, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + o_out, b_out.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["M"])
def residual_linear_kernel(
    a, weight, bias, residual, out, M, N: tl.constexpr, K: tl.constexpr, BIASED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    PERSISTENT: tl.constexpr, DESCRIPTORS: tl.constexpr, PRECISION: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Compute out (M, N) = residual + a W^T + bias."""
    wait_for_inputs(PDL)
    if PERSISTENT:
        tiles = tl.cdiv(M, BLOCK_M) * tl.cdiv(N, BLOCK_N)
        for i_tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0), flatten=True):
            _residual_tile(
                i_tile, a, weight, bias, residual, out, M, N, K, BIASED,
                BLOCK_M, BLOCK_N, BLOCK_K, DESCRIPTORS, PRECISION,
            )  # fmt: skip
    else:
        _residual_tile(
            tl.program_id(0), a, weight, bias, residual, out, M, N, K, BIASED,
            BLOCK_M, BLOCK_N, BLOCK_K, DESCRIPTORS, PRECISION,
        )  # fmt: skip
