"""Triton kernels of products with few rows: the time is that of streaming the weight.

Weights do not depend on earlier kernels, so that a program loads or fetches its own before it waits for x. The sums of
a row have one order for every number of rows that a kernel takes.

Prefixes: `b_` tiles, `o_` offsets, `m_` masks, `p_` pointers, `i_` indices.
"""

# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

from kernels.norm import reference
from kernels.runtime.pdl import fetch_rows, start_next, wait_for_inputs

EPS: tl.constexpr = tl.constexpr(reference.EPS)
DEFERRED_ROWS: tl.constexpr = tl.constexpr(32)  # whose moments fit the registers together with a product
SQRT_HALF: tl.constexpr = tl.constexpr(0.7071067811865476)
GROUP: tl.constexpr = tl.constexpr(2)  # rows of x in registers at a time
VECTOR: tl.constexpr = tl.constexpr(8)  # elements of a 16-byte load of two-byte values


@triton.jit
def _erf(b_x):
    """Return erf(x) with an error of at most 1.5e-7 (Abramowitz and Stegun 7.1.26), without branches."""
    b_size = tl.abs(b_x)
    b_t = 1.0 / (1.0 + 0.3275911 * b_size)
    b_sum = 0.254829592 + b_t * (-0.284496736 + b_t * (1.421413741 + b_t * (-1.453152027 + b_t * 1.061405429)))
    b_erf = 1.0 - b_t * b_sum * tl.exp(-b_size * b_size)
    return tl.where(b_x < 0.0, -b_erf, b_erf)


@triton.jit
def _finish(b_out, b_rstd, b_scale, b_bias, NORMED: tl.constexpr, GELU: tl.constexpr):
    """Return gelu(scale rstd b_out + bias)."""
    b_out = b_out * b_scale
    if NORMED:
        b_out = b_out * b_rstd
    b_out += b_bias
    if GELU:
        b_out = 0.5 * b_out * (1.0 + _erf(b_out * SQRT_HALF))
    return b_out


@triton.jit
def _rstd(b_sum, b_squares, K: tl.constexpr):
    """Return 1 / sqrt(variance + EPS) from the sums of a row's differences from any value and of their squares."""
    b_mean = b_sum / K
    return tl.rsqrt(tl.maximum(b_squares / K - b_mean * b_mean, 0.0) + EPS)


@triton.jit
def thin_vector_kernel(
    x, weight, scale, bias, residual, out,
    ROWS: tl.constexpr, N: tl.constexpr, K: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    SCALED: tl.constexpr, BIASED: tl.constexpr, ADDED: tl.constexpr, NORMED: tl.constexpr, GELU: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """Compute BLOCK_N columns of out (ROWS, N) = gelu(scale rstd x W^T + bias) + residual without tensor cores.

    A program holds its part of the weight in registers before x arrives. BLOCK_K is VECTOR elements a thread: a thread
    then needs those elements of x that it loads.
    """
    CHUNKS: tl.constexpr = (K + BLOCK_K - 1) // BLOCK_K
    WHOLE: tl.constexpr = K % BLOCK_K == 0
    LANES: tl.constexpr = BLOCK_K // VECTOR
    i_column = tl.program_id(0) * BLOCK_N
    o_n, o_k = i_column + tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_K)
    m_n = o_n < N
    p_w = weight + tl.minimum(o_n, N - 1)[:, None] * K + o_k[None, :]
    b_ws = ()
    for i in tl.static_range(CHUNKS):
        # (BLOCK_N, BLOCK_K)
        if WHOLE:
            b_w = tl.load(p_w + i * BLOCK_K)
        else:
            b_w = tl.load(p_w + i * BLOCK_K, mask=(i * BLOCK_K + o_k < K)[None, :], other=0.0)
        b_ws += (b_w,)
    b_scale, b_bias = 1.0, 0.0
    if SCALED:
        b_scale = tl.load(scale + o_n, mask=m_n, other=0.0)
    if BIASED:
        b_bias = tl.load(bias + o_n, mask=m_n, other=0.0).to(tl.float32)
    start_next(PDL)
    wait_for_inputs(PDL)
    for i_first in tl.static_range(0, ROWS, GROUP):
        b_xs, b_residuals, b_firsts = (), (), ()  # of all rows of a group before the first is used
        for i_row in tl.static_range(i_first, min(i_first + GROUP, ROWS)):
            for i in tl.static_range(CHUNKS):
                p_x = x + i_row * K + i * BLOCK_K
                b_x = tl.load(p_x + o_k) if WHOLE else tl.load(p_x + o_k, mask=i * BLOCK_K + o_k < K, other=0.0)
                b_xs += (b_x,)
            if NORMED:
                b_firsts += (tl.load(x + i_row * K).to(tl.float32),)
            if ADDED:
                b_residuals += (tl.load(residual + i_row * N + o_n, mask=m_n, other=0.0).to(tl.float32),)
        b_rstds, b_outs = (), ()
        for i_row in tl.static_range(i_first, min(i_first + GROUP, ROWS)):
            if NORMED:
                b_sum, b_squares = tl.zeros((LANES,), tl.float32), tl.zeros((LANES,), tl.float32)
                for i in tl.static_range(CHUNKS):
                    b_off = b_xs[(i_row - i_first) * CHUNKS + i].to(tl.float32) - b_firsts[i_row - i_first]
                    b_off = tl.reshape(b_off if WHOLE else tl.where(i * BLOCK_K + o_k < K, b_off, 0.0), (LANES, VECTOR))
                    b_sum += tl.sum(b_off, 1)
                    b_squares += tl.sum(b_off * b_off, 1)
                b_rstds += (_rstd(tl.sum(b_sum, 0), tl.sum(b_squares, 0), K),)
            # (BLOCK_N, LANES), sums of the VECTOR elements of a thread
            b_outs += (tl.zeros((BLOCK_N, LANES), tl.float32),)
        for i in tl.static_range(CHUNKS):  # in the order in which the weight arrives
            b_w = tl.reshape(b_ws[i], (BLOCK_N, LANES, VECTOR)).to(tl.float32)
            b_sums = ()
            for i_row in tl.static_range(i_first, min(i_first + GROUP, ROWS)):
                b_x = tl.reshape(b_xs[(i_row - i_first) * CHUNKS + i].to(tl.float32), (LANES, VECTOR))
                b_sums += (b_outs[i_row - i_first] + tl.sum(b_w * b_x[None, :, :], 2),)
            b_outs = b_sums
        for i_row in tl.static_range(i_first, min(i_first + GROUP, ROWS)):
            b_y = tl.sum(b_outs[i_row - i_first], 1)
            b_y = _finish(b_y, b_rstds[i_row - i_first] if NORMED else 1.0, b_scale, b_bias, NORMED, GELU)
            if ADDED:
                b_y += b_residuals[i_row - i_first]
            tl.store(out + i_row * N + o_n, b_y.to(out.dtype.element_ty), mask=m_n)


@triton.jit
def _fragments(b_tile, WARPS: tl.constexpr, GROUPS: tl.constexpr):
    """Return (WARPS, GROUPS * 8, 32) of a tile (GROUPS * WARPS * 8, 32) in an order of K that moves no element.

    A thread loads 8 elements of a row. The tensor cores take 4 of each of 4 threads, and then the other 4.
    """
    b_tile = tl.permute(tl.reshape(b_tile, (GROUPS, WARPS, 8, 4, 2, 4)), (1, 0, 2, 4, 3, 5))
    return tl.reshape(b_tile, (WARPS, GROUPS * 8, 32))


@triton.jit(do_not_specialize=["R"])
def thin_held_kernel(
    x, weight, scale, bias, residual, out, partials, counters, R,
    N: tl.constexpr, K: tl.constexpr, SPLITS: tl.constexpr, HALF: tl.constexpr,
    BLOCK_N: tl.constexpr, WARPS: tl.constexpr,
    SCALED: tl.constexpr, BIASED: tl.constexpr, ADDED: tl.constexpr, NORMED: tl.constexpr, GELU: tl.constexpr,
    PRECISION: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Compute a tile (16, BLOCK_N) of out (R, N) = gelu(scale rstd x W^T + bias) + residual; HALF for at most 8 rows.

    A program holds its part of the weight in registers before x arrives. Each warp takes its own elements of K, from
    memory to the tensor cores without a detour through shared memory.

    Args:
        partials: (row tiles, column tiles, SPLITS, 16, BLOCK_N) float32.
        counters: (row tiles, column tiles), zero before and after.
    """
    TILES: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    PART: tl.constexpr = K // SPLITS
    STEP: tl.constexpr = 32 * WARPS
    STEPS: tl.constexpr = (PART + STEP - 1) // STEP
    WHOLE: tl.constexpr = PART % STEP == 0
    GROUPS: tl.constexpr = 1 if HALF else 2
    row_tiles = tl.cdiv(R, 16)
    i_tile, i_split, i_rows = tl.program_id(0) // row_tiles, tl.program_id(1), tl.program_id(0) % row_tiles * 16
    o_inner = tl.arange(0, 32)[None, :]
    # (BLOCK_N * WARPS, 1): 8 columns, then warps, then groups of 8 columns
    o_load = tl.arange(0, BLOCK_N * WARPS)[:, None]
    o_column = i_tile * BLOCK_N + o_load // (8 * WARPS) * 8 + o_load % 8
    o_k = o_load // 8 % WARPS * 32 + o_inner
    p_w = weight + tl.minimum(o_column, N - 1) * K + i_split * PART + o_k
    b_ws = ()
    for i in tl.static_range(STEPS):
        b_w = tl.load(p_w + i * STEP) if WHOLE else tl.load(p_w + i * STEP, mask=i * STEP + o_k < PART, other=0.0)
        b_ws += (b_w,)
    o_n, o_m = i_tile * BLOCK_N + tl.arange(0, BLOCK_N)[None, :], i_rows + tl.arange(0, 16)[:, None]
    mask = (o_n < N) & (o_m < R)
    b_scale, b_bias = 1.0, 0.0
    if SCALED:
        b_scale = tl.load(scale + o_n, mask=o_n < N, other=0.0)
    if BIASED:
        b_bias = tl.load(bias + o_n, mask=o_n < N, other=0.0).to(tl.float32)
    start_next(PDL)
    wait_for_inputs(PDL)
    # (8 * WARPS, 1): 8 rows, then warps
    o_load = tl.arange(0, 8 * WARPS)[:, None]
    o_row, o_k = i_rows + o_load % 8, o_load // 8 * 32 + o_inner
    b_xs = ()
    for i in tl.static_range(STEPS):
        for i_group in tl.static_range(GROUPS):
            m_x = (o_row + i_group * 8 < R) & (o_k < (PART if WHOLE else PART - i * STEP))
            p_x = x + (o_row + i_group * 8) * K + i_split * PART + o_k + i * STEP
            b_xs += (tl.load(p_x, mask=m_x, other=0.0),)
    b_residual = 0.0
    if ADDED:
        b_residual = tl.load(residual + o_m * N + o_n, mask=mask, other=0.0).to(tl.float32)
    # (WARPS, 16, BLOCK_N)
    b_out = tl.zeros((WARPS, 16, BLOCK_N), tl.float32)
    for i in tl.static_range(STEPS):  # in the order in which the weight arrives
        b_low = _fragments(b_xs[i * GROUPS], WARPS, 1)
        b_high = tl.zeros_like(b_low) if HALF else _fragments(b_xs[i * GROUPS + GROUPS - 1], WARPS, 1)
        b_x = tl.reshape(tl.permute(tl.join(b_low, b_high), (0, 3, 1, 2)), (WARPS, 16, 32))
        b_w = tl.permute(_fragments(b_ws[i].to(b_x.dtype), WARPS, BLOCK_N // 8), (0, 2, 1))
        b_out = tl.dot(b_x, b_w, b_out, input_precision=PRECISION)
    b_out = tl.sum(b_out, 0)
    b_rstd = 1.0
    if NORMED:
        b_rstds = ()
        for i_group in tl.static_range(GROUPS):
            b_sum, b_squares = tl.zeros((8 * WARPS, 32), tl.float32), tl.zeros((8 * WARPS, 32), tl.float32)
            for i in tl.static_range(STEPS):
                b_x = b_xs[i * GROUPS + i_group].to(tl.float32)
                b_sum += b_x
                b_squares += b_x * b_x
            b_total = tl.sum(tl.reshape(tl.sum(b_sum, 1), (WARPS, 8)), 0)
            b_rstds += (_rstd(b_total, tl.sum(tl.reshape(tl.sum(b_squares, 1), (WARPS, 8)), 0), K),)
        b_rstd = tl.reshape(tl.permute(tl.join(b_rstds[0], b_rstds[GROUPS - 1]), (1, 0)), (16, 1))
    last = True
    if SPLITS > 1:
        o_part = tl.arange(0, 16)[:, None] * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
        i_output = i_rows // 16 * TILES + i_tile
        p_part = partials + i_output * (SPLITS * 16 * BLOCK_N) + o_part
        tl.store(p_part + i_split * (16 * BLOCK_N), b_out, mask=o_m < R)
        tl.debug_barrier()  # the whole part is written before it is counted
        last = tl.atomic_add(counters + i_output, 1, sem="acq_rel") == SPLITS - 1
        if last:
            b_out = tl.zeros((16, BLOCK_N), tl.float32)
            for i in tl.static_range(SPLITS):
                b_out += tl.load(p_part + i * (16 * BLOCK_N), mask=o_m < R, other=0.0, cache_modifier=".cg")
            tl.store(counters + i_output, 0)
    if last:
        b_y = _finish(b_out, b_rstd, b_scale, b_bias, NORMED, GELU) + b_residual
        tl.store(out + o_m * N + o_n, b_y.to(out.dtype.element_ty), mask=mask)


@triton.jit
def normalize_kernel(x, out, K: tl.constexpr, BLOCK_K: tl.constexpr, PDL: tl.constexpr):
    """Compute one row of out (R, K) = (x - mean) / sqrt(variance + EPS)."""
    o_x, o_k = tl.program_id(0) * K + tl.arange(0, BLOCK_K), tl.arange(0, BLOCK_K)
    start_next(PDL)
    wait_for_inputs(PDL)
    b_x = tl.load(x + o_x, mask=o_k < K, other=0.0).to(tl.float32)
    b_off = tl.where(o_k < K, b_x - tl.sum(b_x, 0) / K, 0.0)
    b_y = b_off * tl.rsqrt(tl.sum(b_off * b_off, 0) / K + EPS)
    tl.store(out + o_x, b_y.to(out.dtype.element_ty), mask=o_k < K)


@triton.jit
def _load_moments(moments, o_m, R, PARTS: tl.constexpr):
    """Load the means and the sums of squares (rows, parts) of rows o_m, zeros beyond both."""
    o_part = tl.arange(0, triton.next_power_of_2(PARTS))[None, :]
    mask = (o_m < R)[:, None] & (o_part < PARTS)
    p_moment = moments + (o_m[:, None] * PARTS + o_part) * 2
    return tl.load(p_moment, mask=mask, other=0.0), tl.load(p_moment + 1, mask=mask, other=0.0)


@triton.jit
def _rstd_of_moments(b_means, b_squares, K: tl.constexpr, PARTS: tl.constexpr):
    """Return 1 / sqrt(variance + EPS) (rows, 1) from the moments of rows."""
    m_part = (tl.arange(0, triton.next_power_of_2(PARTS)) < PARTS)[None, :]
    b_off = tl.where(m_part, b_means - (tl.sum(b_means, 1) / PARTS)[:, None], 0.0)
    b_variance = (tl.sum(b_squares, 1) + K // PARTS * tl.sum(b_off * b_off, 1)) / K
    return tl.rsqrt(b_variance + EPS)[:, None]


@triton.jit(do_not_specialize=["R"])
def thin_matrix_kernel(
    x, weight, scale, bias, residual, moments, out, partials, counters, R,
    N: tl.constexpr, K: tl.constexpr, SPLITS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
    SWAPPED: tl.constexpr, DESCRIBED: tl.constexpr, FETCHED: tl.constexpr, PARTS: tl.constexpr, WRITTEN: tl.constexpr,
    SCALED: tl.constexpr, BIASED: tl.constexpr, ADDED: tl.constexpr, NORMED: tl.constexpr, GELU: tl.constexpr,
    PRECISION: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Compute a tile (BLOCK_M, BLOCK_N) of out (R, N) = gelu(scale rstd x W^T + bias) + residual.

    Each of SPLITS programs sums a part of K, a multiple of BLOCK_K. The last to arrive adds the parts in their order.

    Args:
        x, weight: pointers, or DESCRIBED tiles (BLOCK_M, BLOCK_K) and (BLOCK_N, BLOCK_K).
        moments: (R, PARTS, 2) float32, those of x where NORMED, and of out where WRITTEN; a tile has whole parts.
        partials: (row tiles, column tiles, SPLITS, BLOCK_M, BLOCK_N) float32.
        counters: (row tiles, column tiles), zero before and after.
        SWAPPED: the weight is the left operand, whose rows fill the tensor cores where those of x are few.
        FETCHED: fetch the weight into the L2 cache before the inputs are there.
    """
    TILES: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    PART: tl.constexpr = K // SPLITS
    i_tile, i_split, i_rows = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    o_m, o_n, o_k = (
        i_rows * BLOCK_M + tl.arange(0, BLOCK_M),
        i_tile * BLOCK_N + tl.arange(0, BLOCK_N),
        tl.arange(0, BLOCK_K),
    )
    m_m, m_n = o_m < R, o_n < N
    if not DESCRIBED:
        p_w = weight + tl.minimum(o_n, N - 1)[:, None] * K + i_split * PART + o_k[None, :]
        p_x = x + tl.minimum(o_m, R - 1)[:, None] * K + i_split * PART + o_k[None, :]
    b_scale, b_bias, b_rstd = 1.0, 0.0, 1.0
    if SCALED:
        b_scale = tl.load(scale + o_n, mask=m_n, other=0.0)[None, :]
    if BIASED:
        b_bias = tl.load(bias + o_n, mask=m_n, other=0.0).to(tl.float32)[None, :]
    start_next(PDL)
    if PDL and FETCHED:
        fetch_rows(
            weight + tl.minimum(o_n, N - 1) * K + i_split * PART, PART * weight.dtype.element_ty.primitive_bitwidth // 8
        )
    wait_for_inputs(PDL)
    if NORMED:
        b_means, b_squares = _load_moments(moments, o_m, R, PARTS)
        if BLOCK_M > DEFERRED_ROWS:
            b_rstd = _rstd_of_moments(b_means, b_squares, K, PARTS)
    b_out = tl.zeros((BLOCK_N, BLOCK_M) if SWAPPED else (BLOCK_M, BLOCK_N), tl.float32)
    for k in tl.range(0, PART, BLOCK_K, num_stages=STAGES):
        if DESCRIBED:
            b_w = weight.load([i_tile * BLOCK_N, i_split * PART + k])
            b_x = x.load([i_rows * BLOCK_M, i_split * PART + k])
        else:
            b_x, b_w = tl.load(p_x + k), tl.load(p_w + k)
        if SWAPPED:
            b_out = tl.dot(b_w.to(b_x.dtype), tl.trans(b_x), b_out, input_precision=PRECISION)
        else:
            b_out = tl.dot(b_x, tl.trans(b_w.to(b_x.dtype)), b_out, input_precision=PRECISION)
    # (BLOCK_M, BLOCK_N)
    if SWAPPED:
        b_out = tl.trans(b_out)
    if NORMED and BLOCK_M <= DEFERRED_ROWS:  # the loads of the loop do not wait for the sums
        b_rstd = _rstd_of_moments(b_means, b_squares, K, PARTS)
    last = True
    if SPLITS > 1:
        o_part = tl.arange(0, BLOCK_M)[:, None] * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
        i_output = i_rows * TILES + i_tile
        p_part = partials + i_output * (SPLITS * BLOCK_M * BLOCK_N) + o_part
        tl.store(p_part + i_split * (BLOCK_M * BLOCK_N), b_out)
        tl.debug_barrier()  # the whole part is written before it is counted
        last = tl.atomic_add(counters + i_output, 1, sem="acq_rel") == SPLITS - 1
        if last:
            b_out = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
            for i in tl.static_range(SPLITS):
                b_out += tl.load(p_part + i * (BLOCK_M * BLOCK_N), cache_modifier=".cg")
            tl.store(counters + i_output, 0)
    if last:
        b_y = _finish(b_out, b_rstd, b_scale, b_bias, NORMED, GELU)
        mask = m_m[:, None] & m_n[None, :]
        o_out = o_m[:, None] * N + o_n[None, :]
        if ADDED:
            b_y += tl.load(residual + o_out, mask=mask, other=0.0).to(tl.float32)
        b_y = b_y.to(out.dtype.element_ty)
        tl.store(out + o_out, b_y, mask=mask)
        if WRITTEN:
            SIZE: tl.constexpr = N // PARTS
            # (BLOCK_M, parts, SIZE)
            b_parts = tl.reshape(b_y.to(tl.float32), (BLOCK_M, BLOCK_N // SIZE, SIZE))
            b_mean = tl.sum(b_parts, 2) / SIZE
            b_off = b_parts - b_mean[:, :, None]
            i_part = i_tile * (BLOCK_N // SIZE) + tl.arange(0, BLOCK_N // SIZE)
            p_moment = moments + (o_m[:, None] * PARTS + i_part[None, :]) * 2
            tl.store(p_moment, b_mean, mask=m_m[:, None])
            tl.store(p_moment + 1, tl.sum(b_off * b_off, 2), mask=m_m[:, None])
