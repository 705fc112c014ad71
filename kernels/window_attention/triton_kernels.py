"""Triton kernels of window attention: partition by addresses, one tile for a window and head.

A program owns one head and a run of windows. Token n of a window is at row n // SIDE and column n % SIDE. Masks exclude
tokens outside of the grid and the padding of the tile to TOKENS; every window keeps a token for its softmax. Forward
computes out = p v with p = softmax(s), s = scale q k^T + bias. Backward recomputes p; with the upstream gradient g,

    dp = g v^T,  ds = p (dp - rowsum(p dp)),  dq = scale ds k,  dk = scale ds^T q,  dv = p^T g

The gradient of the bias is the sum of ds over windows. Each program stores its own sum, the launch adds them in a fixed
order, and `window_attention_fold_kernel` adds up the pairs of equal offset.

Prefixes: `b_` tiles, `o_` offsets, `m_` masks, `p_` pointers, `i_` indices.
"""

# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

from kernels.runtime.pdl import wait_for_inputs

LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)


@triton.jit
def _table_rows(SIDE: tl.constexpr, TOKENS: tl.constexpr):
    """Return the bias table's rows (TOKENS, TOKENS) for each query and key; row 0 for padding."""
    o_token = tl.arange(0, TOKENS)
    o_y, o_x = o_token // SIDE, o_token % SIDE
    o_dy = o_y[:, None] - o_y[None, :] + SIDE - 1
    o_dx = o_x[:, None] - o_x[None, :] + SIDE - 1
    m_token = o_token < SIDE * SIDE
    return tl.where(m_token[:, None] & m_token[None, :], o_dy * (2 * SIDE - 1) + o_dx, 0)


@triton.jit
def _window_corner(i_window, down, across, SIDE: tl.constexpr):
    """Return the column, row and frame of a window's first token."""
    return i_window % across * SIDE, i_window // across % down * SIDE, i_window // (across * down)


@triton.jit
def _window_tokens(i_window, height, width, down, across, SIDE: tl.constexpr, TOKENS: tl.constexpr):
    """Return the indices (TOKENS,) of a window's tokens in the flattened (B, T, h, w), and their mask."""
    i_x, i_y, i_frame = _window_corner(i_window, down, across, SIDE)
    o_token = tl.arange(0, TOKENS)
    o_y, o_x = i_y + o_token // SIDE, i_x + o_token % SIDE
    m_token = (o_token < SIDE * SIDE) & (o_y < height) & (o_x < width)
    return i_frame.to(tl.int64) * height * width + o_y * width + o_x, m_token


@triton.jit(do_not_specialize=["height", "width", "down", "across", "windows", "share"])
def window_attention_fwd_kernel(
    qkv, table, out, height, width, down, across, windows, share, scale,
    HEADS: tl.constexpr, DIM: tl.constexpr, BLOCK_D: tl.constexpr, SIDE: tl.constexpr, TOKENS: tl.constexpr,
    RAGGED: tl.constexpr, DESCRIPTORS: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """Compute out = softmax(scale q k^T + bias) v for `share` windows of one head.

    Args:
        qkv: (B, T, h, w, 3 HEADS DIM). table: ((2 SIDE - 1)^2, HEADS). out: (B, T, h, w, HEADS DIM).
        RAGGED: some tiles contain masked tokens.
    """
    wait_for_inputs(PDL)
    i_head = tl.program_id(0)
    o_dim = tl.arange(0, BLOCK_D)
    # (TOKENS, TOKENS), in base 2, since exp2 is one instruction
    b_bias = tl.load(table + _table_rows(SIDE, TOKENS) * HEADS + i_head).to(tl.float32) * LOG2_E
    first = tl.program_id(1) * share
    for i_window in tl.range(first, min(first + share, windows), num_stages=STAGES):
        o_row, m_token = _window_tokens(i_window, height, width, down, across, SIDE, TOKENS)
        mask = m_token[:, None] & (o_dim < DIM)[None, :]
        # (TOKENS, BLOCK_D)
        if DESCRIPTORS:
            i_x, i_y, i_frame = _window_corner(i_window, down, across, SIDE)
            b_q = tl.reshape(qkv.load([i_frame, i_y, i_x, i_head * DIM]), (TOKENS, BLOCK_D))
            b_k = tl.reshape(qkv.load([i_frame, i_y, i_x, (HEADS + i_head) * DIM]), (TOKENS, BLOCK_D))
            b_v = tl.reshape(qkv.load([i_frame, i_y, i_x, (2 * HEADS + i_head) * DIM]), (TOKENS, BLOCK_D))
        else:
            p_q = qkv + o_row[:, None] * (3 * HEADS * DIM) + i_head * DIM + o_dim[None, :]
            b_q = tl.load(p_q, mask=mask, other=0.0)
            b_k = tl.load(p_q + HEADS * DIM, mask=mask, other=0.0)
            b_v = tl.load(p_q + 2 * HEADS * DIM, mask=mask, other=0.0)
        b_s = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION) * (scale * LOG2_E) + b_bias
        if RAGGED:
            b_s = tl.where(m_token[None, :], b_s, float("-inf"))
        b_p = tl.exp2(b_s - tl.max(b_s, 1)[:, None])
        b_sum = tl.sum(b_p, 1)
        b_out = tl.dot(b_p.to(b_v.dtype), b_v, input_precision=PRECISION) / b_sum[:, None]
        b_out = b_out.to(b_q.dtype)
        if DESCRIPTORS:
            out.store([i_frame, i_y, i_x, i_head * DIM], tl.reshape(b_out, (1, SIDE, SIDE, BLOCK_D)))
        else:
            tl.store(out + o_row[:, None] * (HEADS * DIM) + i_head * DIM + o_dim[None, :], b_out, mask=mask)


@triton.jit(do_not_specialize=["height", "width", "down", "across", "windows", "share"])
def window_attention_bwd_kernel(
    qkv, table, grad, dqkv, dbias, height, width, down, across, windows, share, scale,
    HEADS: tl.constexpr, DIM: tl.constexpr, BLOCK_D: tl.constexpr, SIDE: tl.constexpr, TOKENS: tl.constexpr,
    PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Compute dqkv of `share` windows of one head, and their sum of ds.

    Args:
        grad: (B, T, h, w, HEADS DIM). dqkv: as qkv; the others as in `window_attention_fwd_kernel`.
        dbias: (programs, HEADS, TOKENS, TOKENS) float32.
    """
    i_head = tl.program_id(0)
    o_dim, o_token = tl.arange(0, BLOCK_D), tl.arange(0, TOKENS)
    # (TOKENS, TOKENS), in base 2, since exp2 is one instruction
    b_bias = tl.load(table + _table_rows(SIDE, TOKENS) * HEADS + i_head).to(tl.float32) * LOG2_E
    b_dbias = tl.zeros((TOKENS, TOKENS), tl.float32)
    first = tl.program_id(1) * share
    for i_window in tl.range(first, min(first + share, windows), num_stages=STAGES):
        o_row, m_token = _window_tokens(i_window, height, width, down, across, SIDE, TOKENS)
        # (TOKENS, BLOCK_D)
        mask = m_token[:, None] & (o_dim < DIM)[None, :]
        o_qkv = o_row[:, None] * (3 * HEADS * DIM) + i_head * DIM + o_dim[None, :]
        o_grad = o_row[:, None] * (HEADS * DIM) + i_head * DIM + o_dim[None, :]
        b_q = tl.load(qkv + o_qkv, mask=mask, other=0.0)
        b_k = tl.load(qkv + HEADS * DIM + o_qkv, mask=mask, other=0.0)
        b_v = tl.load(qkv + 2 * HEADS * DIM + o_qkv, mask=mask, other=0.0)
        b_grad = tl.load(grad + o_grad, mask=mask, other=0.0)
        # (TOKENS, TOKENS)
        b_s = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION) * (scale * LOG2_E) + b_bias
        b_s = tl.where(m_token[None, :], b_s, float("-inf"))
        b_p = tl.exp2(b_s - tl.max(b_s, 1)[:, None])
        b_p *= (1.0 / tl.sum(b_p, 1))[:, None]
        b_dv = tl.dot(tl.trans(b_p.to(b_q.dtype)), b_grad, input_precision=PRECISION)
        tl.store(dqkv + 2 * HEADS * DIM + o_qkv, b_dv.to(dqkv.dtype.element_ty), mask=mask)
        b_dp = tl.dot(b_grad, tl.trans(b_v), input_precision=PRECISION)
        # (TOKENS, TOKENS), zero in the rows of masked queries, since their b_grad is zero
        b_ds = b_p * (b_dp - tl.sum(b_p * b_dp, 1)[:, None])
        b_dbias += b_ds
        b_ds = (b_ds * scale).to(b_q.dtype)
        b_dq = tl.dot(b_ds, b_k, input_precision=PRECISION)
        tl.store(dqkv + o_qkv, b_dq.to(dqkv.dtype.element_ty), mask=mask)
        b_dk = tl.dot(tl.trans(b_ds), b_q, input_precision=PRECISION)
        tl.store(dqkv + HEADS * DIM + o_qkv, b_dk.to(dqkv.dtype.element_ty), mask=mask)
    p_dbias = dbias + (tl.program_id(1) * HEADS + i_head) * (TOKENS * TOKENS)
    tl.store(p_dbias + o_token[:, None] * TOKENS + o_token[None, :], b_dbias)


@triton.jit
def window_attention_fold_kernel(
    dbias, dtable, HEADS: tl.constexpr, SIDE: tl.constexpr, TOKENS: tl.constexpr
):  # fmt: skip
    """Compute dtable[offset, head] = sum of dbias[head, query, key] over the pairs of that offset.

    Args:
        dbias: (HEADS, TOKENS, TOKENS). dtable: ((2 SIDE - 1)^2, HEADS); the programs are its rows and heads.
    """
    i_offset, i_head = tl.program_id(0), tl.program_id(1)
    dy, dx = i_offset // (2 * SIDE - 1) - SIDE + 1, i_offset % (2 * SIDE - 1) - SIDE + 1
    o_key = tl.arange(0, TOKENS)
    o_y, o_x = o_key // SIDE + dy, o_key % SIDE + dx
    m_pair = (o_key < SIDE * SIDE) & (o_y >= 0) & (o_y < SIDE) & (o_x >= 0) & (o_x < SIDE)
    p_pair = dbias + (i_head * TOKENS + o_y * SIDE + o_x) * TOKENS + o_key
    tl.store(dtable + i_offset * HEADS + i_head, tl.sum(tl.load(p_pair, mask=m_pair, other=0.0), 0))
