"""Triton kernel of decode attention: the time is that of streaming the cache.

Each chunk of cached positions gives its maximum, sum and weighted values. One tile of all chunks and the new position
give the result, a function of the row's own cache and length: other rows and the number of programs do not change it.

Prefixes: `b_` tiles, `o_` offsets, `m_` masks, `p_` pointers, `i_` indices.
"""

# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

from kernels.decode_attention import reference
from kernels.runtime.pdl import fetch, start_next, wait_for_inputs

QUERIES: tl.constexpr = tl.constexpr(16)
JOINED: tl.constexpr = tl.constexpr(16)  # chunks in registers at a time
FLOAT8_MAX: tl.constexpr = tl.constexpr(reference.FLOAT8_MAX)


@triton.jit
def _stored(b_new, dtype: tl.constexpr):
    """Round new keys or values (D,) to the dtype of a cache."""
    b_new = b_new.to(tl.float32)
    if dtype.is_fp8():
        b_new = tl.clamp(b_new, -FLOAT8_MAX, FLOAT8_MAX)
    return b_new.to(dtype)


@triton.jit
def _split_pairs(b_pairs):
    """Return the low and the high float8 of pairs, as float16."""
    return tl.inline_asm_elementwise(
        """{
        .reg .b32 low, high;
        .reg .b16 low_pair, high_pair, unused;
        prmt.b32 low, $2, 0, 0x20;
        prmt.b32 high, $2, 0, 0x31;
        mov.b32 {low_pair, unused}, low;
        mov.b32 {high_pair, unused}, high;
        cvt.rn.f16x2.e4m3x2 $0, low_pair;
        cvt.rn.f16x2.e4m3x2 $1, high_pair;
        }""",
        "=r,=r,r", [b_pairs], dtype=(tl.float16, tl.float16), is_pure=True, pack=2,
    )  # fmt: skip


@triton.jit(do_not_specialize=["SLOTS", "S", "CHUNKS"])
def decode_attention_kernel(
    qkv, cache, slots, lengths, out, partials, counters, SLOTS, S, CHUNKS, scale,
    H: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
    CHUNK: tl.constexpr, BLOCK_C: tl.constexpr, PAIRS: tl.constexpr,
    SPLITS: tl.constexpr, STAGES: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Compute out (R, H, D) = softmax(scale q K^T) V over each row's positions, and append its key and value.

    Program (i_split, i_head, i_row) takes every SPLITS-th chunk. The last of a head to arrive joins the chunks.

    Args:
        qkv: (R, 3, H, D).
        cache: (2, SLOTS, H, S, D).
        partials: (R, H, CHUNKS, BLOCK_D) float32 sums of values, then (R, H, CHUNKS, 2) maxima and sums.
        counters: (R, H), zero before and after.
        scale: D^-1/2 / log 2, since the kernel computes powers of two.
    """
    i_split, i_head, i_row = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    o_d, o_chunk, o_q = tl.arange(0, BLOCK_D), tl.arange(0, CHUNK), tl.arange(0, QUERIES)
    o_pair, m_d = tl.arange(0, BLOCK_D // 2), o_d < D
    i_head_row = i_row * H + i_head
    p_new = qkv + (i_row * 3 * H + i_head) * D + o_d
    start_next(PDL)
    if PDL and SPLITS > 1:  # an earlier kernel may be about to change what is read here, which then fetches in vain
        early = tl.minimum(tl.maximum(tl.load(slots + i_row), 0), SLOTS - 1)
        if (i_split * CHUNK < tl.load(lengths + i_row)) & (S >= CHUNK):
            p_early = cache + ((early.to(tl.int64) * H + i_head) * S + tl.minimum(i_split * CHUNK, S - CHUNK)) * D
            fetch(p_early, CHUNK * D * cache.dtype.element_ty.primitive_bitwidth // 8)
            fetch(p_early + SLOTS.to(tl.int64) * H * S * D, CHUNK * D * cache.dtype.element_ty.primitive_bitwidth // 8)
    wait_for_inputs(PDL)
    length = tl.load(lengths + i_row, cache_modifier=".cg")
    slot = tl.load(slots + i_row, cache_modifier=".cg")
    # (QUERIES, BLOCK_D), as many as the tensor cores take; all but the first are zeros
    b_q = tl.load(p_new[None, :] + 0 * o_q[:, None], mask=(o_q == 0)[:, None] & m_d[None, :], other=0.0)
    if cache.dtype.element_ty.is_fp8():
        b_q = b_q.to(tl.float16)  # holds every float8, which converts to it in one instruction
    # (BLOCK_D,), all of the new position
    b_new_q = tl.load(p_new, mask=m_d, other=0.0).to(tl.float32)
    b_new_k = _stored(tl.load(p_new + H * D, mask=m_d, other=0.0), cache.dtype.element_ty)
    b_new_v = _stored(tl.load(p_new + 2 * H * D, mask=m_d, other=0.0), cache.dtype.element_ty)
    p_k = cache + (slot.to(tl.int64) * H + i_head) * S * D
    p_v = p_k + SLOTS.to(tl.int64) * H * S * D
    cached = length - 1
    chunks = tl.cdiv(tl.maximum(cached, 0), CHUNK)
    p_sum = partials + i_head_row.to(tl.int64) * CHUNKS * BLOCK_D
    p_pair = partials + (tl.num_programs(2) * H).to(tl.int64) * CHUNKS * BLOCK_D + i_head_row.to(tl.int64) * CHUNKS * 2
    for i_chunk in tl.range(i_split, chunks, SPLITS, num_stages=STAGES):
        o_s = i_chunk * CHUNK + o_chunk
        # (CHUNK, BLOCK_D)
        mask = (o_s < cached)[:, None] & m_d[None, :]
        o_kv = o_s[:, None] * D + o_d[None, :]
        b_k = tl.load(p_k + o_kv, mask=mask, other=0.0).to(b_q.dtype)
        if PAIRS:
            m_pair = (o_s < cached)[:, None] & (o_pair < D // 2)[None, :]
            o_kv = o_s[:, None] * (D // 2) + o_pair[None, :]
            b_even, b_odd = _split_pairs(tl.load(p_v.to(tl.pointer_type(tl.int16)) + o_kv, mask=m_pair, other=0))
        else:
            b_v = tl.load(p_v + o_kv, mask=mask, other=0.0).to(b_q.dtype)
        # (QUERIES, CHUNK)
        b_logit = tl.dot(b_q, tl.trans(b_k), input_precision="ieee") * scale
        b_logit = tl.where((o_s < cached)[None, :], b_logit, float("-inf"))
        b_largest = tl.max(b_logit, 1)
        b_p = tl.exp2(b_logit - b_largest[:, None]).to(b_q.dtype)
        b_sum = tl.sum(b_p.to(tl.float32), 1)
        # (QUERIES, BLOCK_D)
        if PAIRS:
            b_values = tl.reshape(tl.join(tl.dot(b_p, b_even), tl.dot(b_p, b_odd)), (QUERIES, BLOCK_D))
        else:
            b_values = tl.dot(b_p, b_v, input_precision="ieee")
        tl.store(p_sum + i_chunk * BLOCK_D + o_d[None, :] + 0 * o_q[:, None], b_values, mask=(o_q == 0)[:, None])
        tl.store(p_pair + i_chunk * 2 + 0 * o_q, b_largest, mask=o_q == 0)
        tl.store(p_pair + i_chunk * 2 + 1 + 0 * o_q, b_sum, mask=o_q == 0)
    if i_split == 0:
        m_write = m_d & (length > 0)
        tl.store(p_k + tl.maximum(cached, 0) * D + o_d, b_new_k, mask=m_write)
        tl.store(p_v + tl.maximum(cached, 0) * D + o_d, b_new_v, mask=m_write)
    arrivals = tl.minimum(tl.maximum(chunks, 1), SPLITS)
    last = i_split == 0
    tl.debug_barrier()  # the partials are written before they are counted or read
    if SPLITS > 1:
        last = False
        if i_split < arrivals:
            last = tl.atomic_add(counters + i_head_row, 1, sem="acq_rel") == arrivals - 1
            if last:
                tl.store(counters + i_head_row, 0)
    if last:
        new_logit = tl.sum(b_new_q * b_new_k.to(tl.float32), 0) * scale
        o_c = tl.arange(0, BLOCK_C)
        m_c = o_c < chunks
        # (BLOCK_C,)
        b_largest = tl.load(p_pair + o_c * 2, mask=m_c, other=float("-inf"), cache_modifier=".cg")
        b_sum = tl.load(p_pair + o_c * 2 + 1, mask=m_c, other=0.0, cache_modifier=".cg")
        largest = tl.maximum(tl.max(b_largest, 0), new_logit)
        new_weight = tl.exp2(new_logit - largest)
        total = tl.sum(tl.exp2(b_largest - largest) * b_sum, 0) + new_weight
        b_out = new_weight * b_new_v.to(tl.float32)
        for i_first in range(0, chunks, JOINED):
            o_j = i_first + tl.arange(0, JOINED)
            b_most = tl.load(p_pair + o_j * 2, mask=o_j < chunks, other=float("-inf"), cache_modifier=".cg")
            # (JOINED, BLOCK_D)
            p_values = p_sum + o_j[:, None] * BLOCK_D + o_d[None, :]
            b_joined = tl.load(p_values, mask=(o_j < chunks)[:, None], other=0.0, cache_modifier=".cg")
            b_out += tl.sum(tl.exp2(b_most - largest)[:, None] * b_joined, 0)
        b_out = tl.where(length > 0, b_out / total, 0.0)
        tl.store(out + i_head_row * D + o_d, b_out.to(out.dtype.element_ty), mask=m_d)
