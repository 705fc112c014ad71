"""Triton kernels of temporal attention: a position's keys stay in registers, and memory is read once.

A program owns ROWS (pixel, head) rows of one batch item and unrolls frames and keys; the few keys do not fill tensor
cores. Let uq and uk be unit vectors, w = 8 q_scale k_scale, s_ij = sum_d w_d uq_id uk_jd - slope |i - j|,
p = softmax(s), and g the upstream gradient. Forward computes out_i = sum_j p_ij v_j. Backward recomputes p:

    ds_ij = p_ij (g_i.v_j - sum_j p_ij g_i.v_j)
    dv_j  = sum_i p_ij g_i
    duq_i = w sum_j ds_ij uk_j,   dq_i = (duq_i - uq_i (uq_i.duq_i)) / |q_i|,   dk_j by analogy
    dw    = sum_ij ds_ij uq_i uk_j, for the gradients of both scales

Prefixes: `b_` tiles, `o_` offsets, `m_` masks, `p_` pointers, `i_` indices.
"""

# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

from kernels.runtime.pdl import wait_for_inputs

LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)
MIN_NORM: tl.constexpr = tl.constexpr(1e-12)  # as torch.nn.functional.normalize


@triton.constexpr_function
def is_visible(query: int, key: int, causal: bool, window: int) -> bool:
    """Return whether a frame attends to another; `window` 0 means no window."""
    return (not causal or key <= query) and (window == 0 or query - key < window)


@triton.jit
def inverse_norm(b_x):
    """Return 1 / max(|x|, MIN_NORM) of each row of a tile (ROWS, BLOCK_D), float32."""
    b_x = b_x.to(tl.float32)
    return 1.0 / tl.maximum(tl.sqrt(tl.sum(b_x * b_x, 1)), MIN_NORM)


@triton.jit
def unit_gradient(b_du, b_unit, b_inverse):
    """Return the gradient of x from that of x / |x|, tiles (ROWS, BLOCK_D); a norm below MIN_NORM is constant."""
    b_along = tl.where(b_inverse < 1.0 / MIN_NORM, tl.sum(b_du * b_unit, 1), 0.0)
    return (b_du - b_unit * b_along[:, None]) * b_inverse[:, None]


@triton.jit
def _load_scales(q_scale, k_scale, slopes, o_dim, o_head, DIM: tl.constexpr, SLOPED: tl.constexpr, BY: tl.constexpr):
    """Load the product of both scales, times BY (BLOCK_D,), and the slopes in base 2 (ROWS,); float32."""
    b_weight = tl.load(q_scale + o_dim, mask=o_dim < DIM, other=0.0).to(tl.float32)
    b_weight *= tl.load(k_scale + o_dim, mask=o_dim < DIM, other=0.0).to(tl.float32)
    b_slope = 0.0
    if SLOPED:
        b_slope = tl.load(slopes + o_head).to(tl.float32) * LOG2_E
    return b_weight * BY, b_slope


@triton.jit
def _load_keys(
    kv, past, i_batch, o_pixel, o_inner, mask, kv_batch, kv_time, kv_pixel, past_batch, past_time, past_pixel,
    WIDTH: tl.constexpr, FRAMES: tl.constexpr, PAST: tl.constexpr,
):  # fmt: skip
    """Load keys and values (ROWS, BLOCK_D) of all frames, the values WIDTH after the keys; and 1 / |k| (ROWS,)."""
    keys, values, inverses = (), (), ()
    for t in tl.static_range(PAST + FRAMES):
        if t < PAST:
            p_key = past + i_batch * past_batch + t * past_time.to(tl.int64) + o_pixel[:, None] * past_pixel + o_inner
        else:
            p_key = kv + i_batch * kv_batch + (t - PAST) * kv_time.to(tl.int64) + o_pixel[:, None] * kv_pixel + o_inner
        keys += (tl.load(p_key, mask=mask, other=0.0),)
        values += (tl.load(p_key + WIDTH, mask=mask, other=0.0),)
    for t in tl.static_range(PAST + FRAMES):
        inverses += (inverse_norm(keys[t]),)
    return keys, values, inverses


@triton.jit(do_not_specialize=["rows"])
def temporal_attention_fwd_kernel(
    q, kv, past, q_scale, k_scale, slopes, out,
    rows, q_batch, q_time, q_pixel, kv_batch, kv_time, kv_pixel, past_batch, past_time, past_pixel,
    HEADS: tl.constexpr, DIM: tl.constexpr, BLOCK_D: tl.constexpr, FRAMES: tl.constexpr, PAST: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, SLOPED: tl.constexpr, LOGIT_SCALE: tl.constexpr, ROWS: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """Compute out_i = sum_j softmax_j(s_ij) v_j for ROWS rows.

    Args:
        q: (B, FRAMES, h, w, HEADS, DIM). kv, past: (B, FRAMES or PAST, h, w, 2, HEADS, DIM). Strides are of batch
            items, frames and pixels.
        q_scale, k_scale, slopes: (DIM,), (DIM,), (HEADS,).
        out: (B, FRAMES, rows, DIM), rows = h w HEADS.
    """
    i_batch = tl.program_id(1).to(tl.int64)
    o_row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    o_dim = tl.arange(0, BLOCK_D)
    o_pixel, o_head = (o_row // HEADS).to(tl.int64), o_row % HEADS
    m_row = o_row < rows
    # (ROWS, BLOCK_D)
    mask = m_row[:, None] & (o_dim < DIM)[None, :]
    o_inner = o_head[:, None] * DIM + o_dim[None, :]
    wait_for_inputs(PDL)
    b_weight, b_slope = _load_scales(q_scale, k_scale, slopes, o_dim, o_head, DIM, SLOPED, LOGIT_SCALE * LOG2_E)

    keys, values, inverses = _load_keys(
        kv, past, i_batch, o_pixel, o_inner, mask, kv_batch, kv_time, kv_pixel, past_batch, past_time, past_pixel,
        HEADS * DIM, FRAMES, PAST,
    )  # fmt: skip

    for i in tl.static_range(FRAMES):
        p_q = q + i_batch * q_batch + i * q_time.to(tl.int64) + o_pixel[:, None] * q_pixel + o_inner
        b_q = tl.load(p_q, mask=mask, other=0.0)
        b_q = b_q.to(tl.float32) * inverse_norm(b_q)[:, None] * b_weight[None, :]
        # (ROWS,) each, in base 2, since exp2 is one instruction
        b_top = tl.full((ROWS,), float("-inf"), tl.float32)
        logits = ()
        for j in tl.static_range(PAST + FRAMES):
            b_logit = tl.full((ROWS,), float("-inf"), tl.float32)
            if is_visible(PAST + i, j, CAUSAL, WINDOW):
                b_logit = tl.sum(b_q * keys[j].to(tl.float32), 1) * inverses[j]
                if SLOPED:
                    b_logit -= b_slope * (PAST + i - j if PAST + i > j else j - PAST - i)
                b_top = tl.maximum(b_top, b_logit)
            logits += (b_logit,)
        b_sum = tl.zeros((ROWS,), tl.float32)
        b_out = tl.zeros((ROWS, BLOCK_D), tl.float32)
        for j in tl.static_range(PAST + FRAMES):
            if is_visible(PAST + i, j, CAUSAL, WINDOW):
                b_p = tl.exp2(logits[j] - b_top)
                b_sum += b_p
                b_out += b_p[:, None] * values[j].to(tl.float32)
        b_out *= (1.0 / b_sum)[:, None]
        p_out = out + (i_batch * FRAMES + i) * rows * DIM + o_row[:, None].to(tl.int64) * DIM + o_dim[None, :]
        tl.store(p_out, b_out.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["rows"])
def temporal_attention_bwd_kernel(
    q, kv, past, q_scale, k_scale, slopes, grad, dq, dkv, dpast, dweight,
    rows, q_batch, q_time, q_pixel, kv_batch, kv_time, kv_pixel, past_batch, past_time, past_pixel,
    HEADS: tl.constexpr, DIM: tl.constexpr, BLOCK_D: tl.constexpr, FRAMES: tl.constexpr, PAST: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, SLOPED: tl.constexpr, LOGIT_SCALE: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Compute dq, dkv and dpast of ROWS rows, and the program's part of dw.

    Args:
        grad, dq: (B, FRAMES, rows, DIM). dkv, dpast: (B, FRAMES or PAST, h, w, 2, HEADS, DIM).
        dweight: (programs, BLOCK_D) float32; the launch adds up the programs.
    """
    i_batch = tl.program_id(1).to(tl.int64)
    o_row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    o_dim = tl.arange(0, BLOCK_D)
    o_pixel, o_head = (o_row // HEADS).to(tl.int64), o_row % HEADS
    # (ROWS, BLOCK_D)
    mask = (o_row < rows)[:, None] & (o_dim < DIM)[None, :]
    o_inner = o_head[:, None] * DIM + o_dim[None, :]
    b_weight, b_slope = _load_scales(q_scale, k_scale, slopes, o_dim, o_head, DIM, SLOPED, LOGIT_SCALE)

    keys, values, inverse_keys = _load_keys(
        kv, past, i_batch, o_pixel, o_inner, mask, kv_batch, kv_time, kv_pixel, past_batch, past_time, past_pixel,
        HEADS * DIM, FRAMES, PAST,
    )  # fmt: skip

    # (ROWS, BLOCK_D), within a frame of the contiguous grad and dq
    o_own = o_row[:, None].to(tl.int64) * DIM + o_dim[None, :]
    queries, inverse_queries, grads = (), (), ()
    probabilities, dlogits = (), ()  # (ROWS,) each; the index of query i and key j is i * (PAST + FRAMES) + j
    b_dweight = tl.zeros((ROWS, BLOCK_D), tl.float32)
    for i in tl.static_range(FRAMES):
        p_q = q + i_batch * q_batch + i * q_time.to(tl.int64) + o_pixel[:, None] * q_pixel + o_inner
        queries += (tl.load(p_q, mask=mask, other=0.0),)
        grads += (tl.load(grad + (i_batch * FRAMES + i) * rows * DIM + o_own, mask=mask, other=0.0),)
        inverse_queries += (inverse_norm(queries[i]),)
        b_q = queries[i].to(tl.float32) * inverse_queries[i][:, None]
        b_grad = grads[i].to(tl.float32)
        b_top = tl.full((ROWS,), float("-inf"), tl.float32)
        logits = ()
        for j in tl.static_range(PAST + FRAMES):
            b_logit = tl.full((ROWS,), float("-inf"), tl.float32)
            if is_visible(PAST + i, j, CAUSAL, WINDOW):
                b_logit = tl.sum(b_q * b_weight[None, :] * keys[j].to(tl.float32), 1) * (inverse_keys[j] * LOG2_E)
                if SLOPED:
                    b_logit -= b_slope * (PAST + i - j if PAST + i > j else j - PAST - i)
                b_top = tl.maximum(b_top, b_logit)
            logits += (b_logit,)
        b_sum = tl.zeros((ROWS,), tl.float32)
        for j in tl.static_range(PAST + FRAMES):
            if is_visible(PAST + i, j, CAUSAL, WINDOW):
                b_sum += tl.exp2(logits[j] - b_top)
        b_scale = 1.0 / b_sum
        b_delta = tl.zeros((ROWS,), tl.float32)
        dprobabilities = ()
        for j in tl.static_range(PAST + FRAMES):
            b_p = tl.zeros((ROWS,), tl.float32)
            b_dp = tl.zeros((ROWS,), tl.float32)
            if is_visible(PAST + i, j, CAUSAL, WINDOW):
                b_p = tl.exp2(logits[j] - b_top) * b_scale
                b_dp = tl.sum(b_grad * values[j].to(tl.float32), 1)
                b_delta += b_p * b_dp
            probabilities += (b_p,)
            dprobabilities += (b_dp,)
        b_sum_keys = tl.zeros((ROWS, BLOCK_D), tl.float32)
        for j in tl.static_range(PAST + FRAMES):
            b_ds = tl.zeros((ROWS,), tl.float32)
            if is_visible(PAST + i, j, CAUSAL, WINDOW):
                b_ds = probabilities[i * (PAST + FRAMES) + j] * (dprobabilities[j] - b_delta)
                b_sum_keys += (b_ds * inverse_keys[j])[:, None] * keys[j].to(tl.float32)
            dlogits += (b_ds,)
        b_dweight += b_sum_keys * b_q
        b_dq = unit_gradient(b_sum_keys * b_weight[None, :], b_q, inverse_queries[i])
        tl.store(dq + (i_batch * FRAMES + i) * rows * DIM + o_own, b_dq.to(dq.dtype.element_ty), mask=mask)

    o_pair = o_pixel[:, None] * (2 * HEADS * DIM) + o_inner
    for j in tl.static_range(PAST + FRAMES):
        b_sum_queries = tl.zeros((ROWS, BLOCK_D), tl.float32)
        b_dv = tl.zeros((ROWS, BLOCK_D), tl.float32)
        for i in tl.static_range(FRAMES):
            if is_visible(PAST + i, j, CAUSAL, WINDOW):
                b_ds = dlogits[i * (PAST + FRAMES) + j]
                b_sum_queries += (b_ds * inverse_queries[i])[:, None] * queries[i].to(tl.float32)
                b_dv += probabilities[i * (PAST + FRAMES) + j][:, None] * grads[i].to(tl.float32)
        b_key = keys[j].to(tl.float32) * inverse_keys[j][:, None]
        b_dk = unit_gradient(b_sum_queries * b_weight[None, :], b_key, inverse_keys[j])
        if j < PAST:
            p_dkey = dpast + (i_batch * PAST + j) * rows * (2 * DIM) + o_pair
        else:
            p_dkey = dkv + (i_batch * FRAMES + j - PAST) * rows * (2 * DIM) + o_pair
        tl.store(p_dkey, b_dk.to(dkv.dtype.element_ty), mask=mask)
        tl.store(p_dkey + HEADS * DIM, b_dv.to(dkv.dtype.element_ty), mask=mask)

    i_program = i_batch * tl.num_programs(0) + tl.program_id(0)
    tl.store(dweight + i_program * BLOCK_D + o_dim, tl.sum(b_dweight, 0))
