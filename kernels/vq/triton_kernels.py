"""Triton kernels of code assignment: a running minimum over groups of codes; no distance is ever written.

Scores |e|^2 / 2 - z.e are a chain of float32 FMAs, exact but for rounding, and decide between groups of codes. Within
the best group, squared differences decide, whose relative error is that of a few roundings whatever the distance. Where
another group is so close that rounding could have decided, all codes of the tile are compared by squared differences.

Prefixes: `b_` tiles, `o_` offsets, `m_` masks.
"""

# The language of kernels is not Python: its values have no Python types, and its tuples know no unpacking.
# mypy: ignore-errors
# ruff: noqa: RUF005

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["K"])
def codebook_kernel(codebook_ptr, table_ptr, K, padded, D: tl.constexpr, BLOCK_K: tl.constexpr):
    """Codes by dimension, then half their squared norms: (D + 1, padded) float32; infinite where there is none."""
    o_k = tl.program_id(0) * BLOCK_K + tl.arange(0, BLOCK_K)
    m_k = o_k < K
    b_half = tl.zeros((BLOCK_K,), tl.float32)
    for d in tl.static_range(D):
        b_e = tl.load(codebook_ptr + o_k * D + d, mask=m_k, other=0.0).to(tl.float32)
        b_half += 0.5 * b_e * b_e
        tl.store(table_ptr + d * padded + o_k, b_e)
    tl.store(table_ptr + D * padded + o_k, tl.where(m_k, b_half, float("inf")))


@triton.jit
def _squared_distance(b_z, codes, PADDED: tl.constexpr, D: tl.constexpr):
    """|z - e|^2 summed from differences."""
    b_gap = b_z[0] - tl.load(codes)
    b_sum = b_gap * b_gap
    for d in tl.static_range(1, D):
        b_gap = b_z[d] - tl.load(codes + d * PADDED)
        b_sum += b_gap * b_gap
    return b_sum


@triton.jit
def _nearest(b_best, b_index, K):
    """Least of each row, and the lowest index that has it: [BLOCK_M]."""
    b_least = tl.min(b_best, axis=1)
    return b_least, tl.min(tl.where(b_best == b_least[:, None], b_index, K), axis=1)


@triton.jit(do_not_specialize=["M"])
def vq_assign_kernel(
    z_ptr, table_ptr, out_ptr, M, K: tl.constexpr, PADDED: tl.constexpr,
    D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Index of the nearest code of BLOCK_M vectors.

    Codes start + i and start + i + BLOCK_K, ... form a group of GROUP, of which only the best score is kept.

    Args:
        z_ptr: (M, D).
        table_ptr: what `codebook_kernel` wrote; PADDED is a multiple of BLOCK_K * GROUP.
        out_ptr: (M,) int64.
    """
    o_m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    m_m = o_m < M
    o_k = tl.arange(0, BLOCK_K)
    b_z = ()
    b_square = tl.zeros((BLOCK_M,), tl.float32)
    for d in tl.static_range(D):
        # [BLOCK_M, 1]
        b_one = tl.load(z_ptr + o_m[:, None] * D + d, mask=m_m[:, None], other=0.0).to(tl.float32)
        b_square += tl.sum(b_one * b_one, axis=1)
        b_z = b_z + (b_one,)
    # [BLOCK_M, BLOCK_K], a column for each group
    b_best = tl.full((BLOCK_M, BLOCK_K), float("inf"), tl.float32)
    b_second = b_best
    b_group = tl.zeros((BLOCK_M, BLOCK_K), tl.int32)
    for start in range(0, PADDED, BLOCK_K * GROUP):
        b_low = tl.full((BLOCK_M, BLOCK_K), float("inf"), tl.float32)
        for i_part in tl.static_range(GROUP):
            codes = table_ptr + start + i_part * BLOCK_K + o_k[None, :]
            b_score = tl.load(codes + D * PADDED) + tl.zeros((BLOCK_M, BLOCK_K), tl.float32)
            for d in tl.static_range(D):
                b_score -= b_z[d] * tl.load(codes + d * PADDED)
            b_low = tl.minimum(b_low, b_score)
        b_group = tl.where(b_low < b_best, start, b_group)
        b_second = tl.minimum(b_second, tl.maximum(b_best, b_low))
        b_best = tl.minimum(b_best, b_low)
    b_group += o_k[None, :]
    b_least, b_found = _nearest(b_best, b_group, K)
    b_next = tl.min(tl.where(b_group == b_found[:, None], b_second, b_best), axis=1)  # of any other group

    # a code that rivals the best is no longer than b_reach, so that no rounding of its score is larger than b_unsure
    b_reach = tl.sqrt(b_square) + tl.sqrt(tl.maximum(b_square + 2 * b_least, 0.0))
    b_unsure = (4 * D + 8) * 5.9604645e-08 * b_reach * (0.5 * b_reach + tl.sqrt(b_square))
    b_close = (b_next - b_least <= b_unsure) & m_m
    # [BLOCK_M, 1], the codes of the best group
    b_code = b_found[:, None]
    b_chosen = b_code
    b_nearest = _squared_distance(b_z, table_ptr + b_code, PADDED, D)
    for i_part in tl.static_range(1, GROUP):
        b_gap = _squared_distance(b_z, table_ptr + b_code + i_part * BLOCK_K, PADDED, D)
        b_better = (b_gap < b_nearest) & (b_code + i_part * BLOCK_K < K)
        b_chosen = tl.where(b_better, b_code + i_part * BLOCK_K, b_chosen)
        b_nearest = tl.where(b_better, b_gap, b_nearest)
    b_answer = tl.sum(b_chosen, axis=1)  # of one
    if tl.max(b_close.to(tl.int32), axis=0) > 0:
        b_distance = tl.full((BLOCK_M, BLOCK_K), float("inf"), tl.float32)
        b_index = tl.zeros((BLOCK_M, BLOCK_K), tl.int32)
        for start in range(0, PADDED, BLOCK_K):
            b_gaps = _squared_distance(b_z, table_ptr + start + o_k[None, :], PADDED, D)
            b_nearer = (b_gaps < b_distance) & (start + o_k[None, :] < K)  # strictly: the lowest index keeps its place
            b_index = tl.where(b_nearer, start, b_index)
            b_distance = tl.where(b_nearer, b_gaps, b_distance)
        b_least, b_answer = _nearest(b_distance, b_index + o_k[None, :], K)
    tl.store(out_ptr + o_m, tl.minimum(b_answer, K - 1).to(tl.int64), mask=m_m)
