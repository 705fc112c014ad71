"""Triton kernel of decode attention without tensor cores: the time is that of streaming the cache.

A thread keeps the running maximum and sums of its own positions, a stream, and nothing crosses threads in the loop but
the sum over a head's channels. Streams, then programs of a head, then the new position are joined at the end. The
result is a function of the row's own cache and length, and of the tile, which follows from the number of rows.

Prefixes: `b_` tiles, `o_` offsets, `m_` masks, `p_` pointers, `i_` indices.
"""

# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

from kernels.decode_attention import reference
from kernels.runtime.pdl import fetch_block, start_next, wait_for_inputs

LOWEST: tl.constexpr = tl.constexpr(-1e30)  # of a stream without positions; finite, since it is subtracted from itself
FLOAT8_MAX: tl.constexpr = tl.constexpr(reference.FLOAT8_MAX)


@triton.jit
def _stored(b_new, dtype: tl.constexpr):
    """Round new keys or values to the dtype of a cache."""
    b_new = b_new.to(tl.float32)
    if dtype.is_fp8():
        b_new = tl.clamp(b_new, -FLOAT8_MAX, FLOAT8_MAX)
    return b_new.to(dtype)


@triton.jit
def _floats(b_x):
    """Return float32 of cached numbers; float16 holds every float8, which converts to it in one instruction."""
    return b_x.to(tl.float16).to(tl.float32) if b_x.dtype.is_fp8() else b_x.to(tl.float32)


@triton.jit
def _load(p_x, o_s, cached, D: tl.constexpr, WIDTH: tl.constexpr, POLICY: tl.constexpr, CACHED_IN: tl.constexpr = ""):
    """Load positions o_s as D / WIDTH tiles (ROWS, WIDTH), zeros after the cached ones."""
    p_x = p_x + o_s[:, None] * D + tl.arange(0, WIDTH)[None, :]
    m_s = (o_s < cached)[:, None]
    b_xs = ()
    for i in tl.static_range(D // WIDTH):
        b_xs += (tl.load(p_x + i * WIDTH, m_s, other=0.0, cache_modifier=CACHED_IN, eviction_policy=POLICY),)
    return b_xs


@triton.jit
def _attend(
    b_max, b_total, b_outs, b_qs, b_ks, b_vs, o_s, cached,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, STREAMS: tl.constexpr,
):  # fmt: skip
    """Return the maximum, sum of weights and weighted values of each stream with a chunk o_s (ROWS,) added."""
    TILES: tl.constexpr = len(b_qs)
    # (ROWS, WIDTH)
    b_product = _floats(b_ks[0]) * b_qs[0][None, :]
    for i in tl.static_range(1, TILES):
        b_product += _floats(b_ks[i]) * b_qs[i][None, :]
    # (repeats, STREAMS)
    b_logit = tl.where(o_s < cached, tl.sum(b_product, 1), float("-inf"))
    b_logit = tl.reshape(b_logit, (ROWS // STREAMS, STREAMS))
    b_largest = tl.maximum(b_max, tl.max(b_logit, 0))
    b_fade, b_p = tl.exp2(b_max - b_largest), tl.exp2(b_logit - b_largest[None, :])
    b_total = b_total * b_fade + tl.sum(b_p, 0)
    b_sums = ()
    for i in tl.static_range(TILES):
        b_v = tl.reshape(_floats(b_vs[i]), (ROWS // STREAMS, STREAMS, WIDTH))
        b_sums += (b_outs[i] * b_fade[:, None] + tl.sum(b_v * b_p[:, :, None], 0),)
    return b_largest, b_total, b_sums


@triton.jit(do_not_specialize=["SLOTS", "S"])
def decode_attention_kernel(
    qkv, cache, slots, lengths, out, partials, counters, SLOTS, S, scale,
    H: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, STREAMS: tl.constexpr,
    SPLITS: tl.constexpr, FETCHED: tl.constexpr, EARLY: tl.constexpr, STAGES: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Compute out (R, H, D) = softmax(scale q K^T) V over each row's positions, and append its key and value.

    Program (i_split, i_head, i_row) takes every SPLITS-th chunk of ROWS positions. The last of a head to arrive joins.

    Args:
        qkv: (R, 3, H, D).
        cache: (2, SLOTS, H, S, D).
        slots, lengths: (R,), complete before the kernel that precedes this one starts; so are the cached positions if
            EARLY.
        partials: (R, H, SPLITS, 2 + D) float32: maximum, sum of weights and weighted values.
        counters: (R, H), zero before and after.
        scale: D^-1/2 / log 2, since the kernel computes powers of two.
        STREAMS: threads that have positions of their own; position i of a chunk belongs to stream i % STREAMS.
        FETCHED: fetch the first chunk that is not loaded while the kernel before still runs.
        EARLY: load the first chunk while the kernel before still runs.
    """
    TILES: tl.constexpr = D // WIDTH
    POLICY: tl.constexpr = "" if FETCHED else "evict_first"
    i_split, i_head, i_row = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    o_d, o_row = tl.arange(0, WIDTH), tl.arange(0, ROWS)
    i_pair = i_row * H + i_head
    start_next(PDL)
    length = tl.load(lengths + i_row, cache_modifier=".cg")
    slot = tl.load(slots + i_row, cache_modifier=".cg")
    cached = tl.maximum(length - 1, 0)
    p_k = cache + (slot.to(tl.int64) * H + i_head) * S * D
    p_v = p_k + SLOTS.to(tl.int64) * H * S * D
    i_later = i_split
    if EARLY:
        o_first = i_split * ROWS + o_row
        # from the L2 cache: the L1 cache may be older than a write of an earlier kernel
        b_first_ks = _load(p_k, o_first, cached, D, WIDTH, POLICY, ".cg")
        b_first_vs = _load(p_v, o_first, cached, D, WIDTH, POLICY, ".cg")
        i_later += SPLITS
    if FETCHED:
        size = tl.minimum(ROWS, cached - i_later * ROWS) * (D * (cache.dtype.element_ty.primitive_bitwidth // 8))
        fetch_block(p_k + i_later * ROWS * D, size, PDL)
        fetch_block(p_v + i_later * ROWS * D, size, PDL)
    wait_for_inputs(PDL)
    chunks = tl.cdiv(cached, ROWS)
    p_new = qkv + (i_row * 3 * H + i_head) * D + o_d
    b_qs, b_new_ks, b_new_vs, b_outs = (), (), (), ()
    for i in tl.static_range(TILES):
        b_qs += (tl.load(p_new + i * WIDTH).to(tl.float32) * scale,)
        b_new_ks += (_stored(tl.load(p_new + H * D + i * WIDTH), cache.dtype.element_ty),)
        b_new_vs += (_stored(tl.load(p_new + 2 * H * D + i * WIDTH), cache.dtype.element_ty),)
        b_outs += (tl.zeros((STREAMS, WIDTH), tl.float32),)
    b_max, b_total = tl.full((STREAMS,), LOWEST, tl.float32), tl.zeros((STREAMS,), tl.float32)
    if EARLY:
        b_max, b_total, b_outs = _attend(
            b_max, b_total, b_outs, b_qs, b_first_ks, b_first_vs, o_first, cached, WIDTH, ROWS, STREAMS
        )
    for i_chunk in tl.range(i_later, chunks, SPLITS, num_stages=STAGES):
        o_s = i_chunk * ROWS + o_row
        b_ks, b_vs = _load(p_k, o_s, cached, D, WIDTH, POLICY), _load(p_v, o_s, cached, D, WIDTH, POLICY)
        b_max, b_total, b_outs = _attend(b_max, b_total, b_outs, b_qs, b_ks, b_vs, o_s, cached, WIDTH, ROWS, STREAMS)
    if i_split == 0:
        for i in tl.static_range(TILES):
            m_write = (length > 0) & (o_d < WIDTH)
            tl.store(p_k + cached * D + i * WIDTH + o_d, b_new_ks[i], mask=m_write)
            tl.store(p_v + cached * D + i * WIDTH + o_d, b_new_vs[i], mask=m_write)
    largest = tl.max(b_max, 0)
    b_share = tl.exp2(b_max - largest)
    total = tl.sum(b_total * b_share, 0)
    b_sums = ()
    for i in tl.static_range(TILES):
        b_sums += (tl.sum(b_outs[i] * b_share[:, None], 0),)
    last = True
    if SPLITS > 1:
        arrivals = tl.minimum(tl.maximum(chunks, 1), SPLITS)
        p_parts = partials + i_pair * (SPLITS * (D + 2))
        last = False
        if i_split < arrivals:
            p_part = p_parts + i_split * (D + 2)
            tl.store(p_part, largest)
            tl.store(p_part + 1, total)
            for i in tl.static_range(TILES):
                tl.store(p_part + 2 + i * WIDTH + o_d, b_sums[i])
            tl.debug_barrier()  # the whole part is written before it is counted
            last = tl.atomic_add(counters + i_pair, 1, sem="acq_rel") == arrivals - 1
            if last:
                tl.store(counters + i_pair, 0)
    if last:
        b_product = b_qs[0] * b_new_ks[0].to(tl.float32)
        for i in tl.static_range(1, TILES):
            b_product += b_qs[i] * b_new_ks[i].to(tl.float32)
        new_logit = tl.sum(b_product, 0)
        if SPLITS > 1:
            o_part = tl.arange(0, SPLITS)
            m_part = o_part < arrivals
            # (SPLITS,)
            b_maxima = tl.load(p_parts + o_part * (D + 2), mask=m_part, other=LOWEST, cache_modifier=".cg")
            b_totals = tl.load(p_parts + o_part * (D + 2) + 1, mask=m_part, other=0.0, cache_modifier=".cg")
            largest = tl.max(b_maxima, 0)
            b_shares = tl.exp2(b_maxima - largest)
            total = tl.sum(b_totals * b_shares, 0)
            b_joined = ()
            for i in tl.static_range(TILES):
                p_values = p_parts + o_part[:, None] * (D + 2) + 2 + i * WIDTH + o_d[None, :]
                b_values = tl.load(p_values, mask=m_part[:, None], other=0.0, cache_modifier=".cg")
                b_joined += (tl.sum(b_values * b_shares[:, None], 0),)
            b_sums = b_joined
        most = tl.maximum(largest, new_logit)
        share, new_weight = tl.exp2(largest - most), tl.exp2(new_logit - most)
        inverse = 1.0 / (total * share + new_weight)
        for i in tl.static_range(TILES):
            b_out = (b_sums[i] * share + new_weight * b_new_vs[i].to(tl.float32)) * inverse
            b_out = tl.where(length > 0, b_out, 0.0)
            tl.store(out + i_pair * D + i * WIDTH + o_d, b_out.to(out.dtype.element_ty))
