"""Triton kernels of code assignment: scores on the tensor cores, decisions by exact differences.

A score |e|^2 / 2 - z.e is one row of products. Each element of z and e is split into two float16 pieces, and the row
[zh, zh, zl, 1, 1] times the column [-eh, -el, -eh, half, rest of half] omits no more than a tensor core rounds away.
Only the minimum of each group of GROUP codes is kept, which costs one comparison for each pair of vector and code.

Scores decide between groups. Squared differences in float32 decide within the best group, since their relative error
does not grow for near codes. If rounding could change the best group, the vector is compared with every code by squared
differences.

Prefixes: `b_` tiles, `o_` offsets, `m_` masks, `p_` pointers, `i_` indices.
"""

# The language of kernels is not Python: its values have no Python types.
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

from kernels.runtime import device
from kernels.runtime.pdl import wait_for_inputs

MMA_COLUMNS = tl.constexpr(device.MMA_COLUMNS)  # keeps groups within a thread
LARGEST_HALF = tl.constexpr(60000.0)  # largest half squared norm in float16


@triton.jit(do_not_specialize=["K"])
def codebook_kernel(
    codebook_ptr, pieces_ptr, codes_ptr, K,
    D: tl.constexpr, INNER: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Pack the codes of one block of MMA_COLUMNS groups for scores [-eh, -el, -eh, half, rest] and for differences.

    Column i * MMA_COLUMNS + c of a block holds code c * GROUP + i: columns of equal remainder form a group. Padding
    scores infinity. A code too long for float16 scores minus infinity, which forces the exact comparison.

    Args:
        codebook_ptr: (K, D).
        pieces_ptr: (blocks * MMA_COLUMNS * GROUP, INNER) float16.
        codes_ptr: (blocks * MMA_COLUMNS, D, GROUP) float32, padded with infinity.
    """
    i_block = tl.program_id(0) * (MMA_COLUMNS * GROUP)
    o_column = tl.arange(0, MMA_COLUMNS * GROUP)
    o_code = i_block + (o_column % MMA_COLUMNS) * GROUP + o_column // MMA_COLUMNS
    m_code = o_code < K
    b_half = tl.zeros((MMA_COLUMNS * GROUP,), tl.float32)
    for d in tl.static_range(D):
        b_e = tl.load(codebook_ptr + o_code * D + d, mask=m_code, other=0.0).to(tl.float32)
        b_half += 0.5 * b_e * b_e
        p_code = codes_ptr + (o_code // GROUP * D + d) * GROUP + o_code % GROUP
        tl.store(p_code, tl.where(m_code, b_e, float("inf")))
    m_fits = b_half <= LARGEST_HALF  # false for NaN too
    b_half = tl.where(m_fits, b_half, float("-inf"))
    b_half = tl.where(m_code, b_half, float("inf"))
    b_high = b_half.to(tl.float16)
    b_low = tl.where(m_fits & m_code, b_half - b_high.to(tl.float32), 0.0).to(tl.float16)
    # (MMA_COLUMNS * GROUP, INNER)
    o_inner = tl.arange(0, INNER)
    m_e = (m_code & m_fits)[:, None] & (o_inner < 3 * D)[None, :]
    b_e = tl.load(codebook_ptr + o_code[:, None] * D + (o_inner % D)[None, :], mask=m_e, other=0.0).to(tl.float32)
    b_eh = b_e.to(tl.float16)
    b_el = (b_e - b_eh.to(tl.float32)).to(tl.float16)
    b_part = tl.where((o_inner // D == 1)[None, :], -b_el, -b_eh)
    b_part = tl.where((o_inner == 3 * D)[None, :], b_high[:, None], b_part)
    b_part = tl.where((o_inner == 3 * D + 1)[None, :], b_low[:, None], b_part)
    tl.store(pieces_ptr + (i_block + o_column)[:, None] * INNER + o_inner[None, :], b_part)


@triton.jit
def _squared_distances(p_z, m_z, codes_ptr, o_code, m_code, D: tl.constexpr, GROUP: tl.constexpr):
    """Return |z - e|^2, summed in a fixed order to give equal codes equal distances."""
    b_sum = o_code * 0.0
    for d in tl.static_range(D):
        b_z = tl.load(p_z + d, mask=m_z, other=0.0).to(tl.float32)
        p_code = codes_ptr + (o_code // GROUP * D + d) * GROUP + o_code % GROUP
        b_difference = b_z - tl.load(p_code, mask=m_code, other=float("inf"))
        b_sum = tl.fma(b_difference, b_difference, b_sum)
    return b_sum


@triton.jit
def _exact_search(p_z, codes_ptr, first, last, D: tl.constexpr, GROUP: tl.constexpr, BLOCK_K: tl.constexpr):
    """Return the squared distance and index of one vector's nearest code; the lowest index wins ties."""
    o_k = tl.arange(0, BLOCK_K)
    b_distance = tl.full((BLOCK_K,), float("inf"), tl.float32)
    b_index = first + o_k
    for start in range(first, last, BLOCK_K):
        b_new = _squared_distances(p_z, True, codes_ptr, start + o_k, start + o_k < last, D, GROUP)
        m_nearer = b_new < b_distance  # strictly, to keep the lowest index
        b_index = tl.where(m_nearer, start + o_k, b_index)
        b_distance = tl.where(m_nearer, b_new, b_distance)
    i_least = tl.min(b_distance, axis=0)
    return i_least, tl.min(tl.where(b_distance == i_least, b_index, last), axis=0)


@triton.jit
def _score_error(b_square, b_least, D: tl.constexpr, INNER: tl.constexpr):
    """Bound the rounding error between two scores of a vector.

    A code that rivals the best score is at most b_reach long. In units of 2^-24 (|z| |e| + |e|^2 / 2), the pieces omit
    12, the float32 half norm D + 2, and a tensor core truncates 40 for each 16 products. Pieces below float16's least
    number omit 2^-25. The factor 2.1 is 2 for two scores plus a margin for the error of b_reach.
    """
    b_norm = tl.sqrt(b_square)
    b_reach = b_norm + tl.sqrt(tl.maximum(b_square + 2 * b_least, 0.0))
    b_relative = (2.5 * INNER + D + 14) * 5.9604645e-08 * b_reach * (b_norm + 0.5 * b_reach)
    return 2.1 * (b_relative + 2.9802322e-08 * (2 + D * (b_norm + b_reach)))


@triton.jit(do_not_specialize=["M"])
def vq_assign_kernel(
    z_ptr, pieces_ptr, codes_ptr, out_ptr, M, K: tl.constexpr, PADDED: tl.constexpr, SHARE: tl.constexpr,
    D: tl.constexpr, INNER: tl.constexpr, GROUP: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr,
    SEARCH: tl.constexpr, STAGES: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Compute argmin_e |z - e|^2 of BLOCK_M vectors among SHARE codes.

    Args:
        z_ptr: (M, D).
        pieces_ptr, codes_ptr: written by `codebook_kernel`; K codes, padded to PADDED.
        out_ptr: (M,) int64 indices if SHARE is PADDED, else (shares, M) int64 keys for `merge_kernel`.
    """
    i_share = tl.program_id(1)
    i_first = i_share * SHARE
    i_last = tl.minimum(i_first + SHARE, PADDED)
    o_row = tl.arange(0, BLOCK_M)
    o_m = tl.program_id(0).to(tl.int64) * BLOCK_M + o_row
    m_m = o_m < M
    wait_for_inputs(PDL)
    # (BLOCK_M, INNER)
    o_inner = tl.arange(0, INNER)
    m_z = m_m[:, None] & (o_inner < 3 * D)[None, :]
    b_z = tl.load(z_ptr + o_m[:, None] * D + (o_inner % D)[None, :], mask=m_z, other=0.0).to(tl.float32)
    b_square = tl.sum(tl.where((o_inner < D)[None, :], b_z * b_z, 0.0), axis=1)
    b_zh = b_z.to(tl.float16)
    b_zl = (b_z - b_zh.to(tl.float32)).to(tl.float16)
    b_left = tl.where((o_inner // D == 2)[None, :], b_zl, b_zh)
    b_left = tl.where(((o_inner >= 3 * D) & (o_inner < 3 * D + 2))[None, :], tl.full((1, 1), 1.0, tl.float16), b_left)
    # (BLOCK_M, GROUPS), one running minimum for each group of a tile
    GROUPS: tl.constexpr = BLOCK_K // GROUP
    b_best = tl.full((BLOCK_M, GROUPS), float("inf"), tl.float32)
    b_second = b_best
    b_start = tl.zeros((BLOCK_M, GROUPS), tl.int32) + i_first
    # (INNER, BLOCK_K)
    p_right = pieces_ptr + tl.arange(0, BLOCK_K)[None, :] * INNER + o_inner[:, None]
    for start in tl.range(i_first, i_last, BLOCK_K, num_stages=STAGES):
        b_score = tl.dot(b_left, tl.load(p_right + start * INNER))
        b_score = tl.reshape(b_score, (BLOCK_M, GROUPS // MMA_COLUMNS, GROUP, MMA_COLUMNS))
        b_low = tl.reshape(tl.min(b_score, axis=2), (BLOCK_M, GROUPS))
        b_start = tl.where(b_low < b_best, start, b_start)
        b_second = tl.minimum(b_second, tl.maximum(b_best, b_low))
        b_best = tl.minimum(b_best, b_low)
    b_code = b_start + tl.arange(0, GROUPS)[None, :] * GROUP
    b_least = tl.min(b_best, axis=1)
    b_found = tl.min(tl.where(b_best == b_least[:, None], b_code, i_last - GROUP), axis=1)
    b_next = tl.min(tl.where(b_code == b_found[:, None], b_second, b_best), axis=1)  # best score of the other groups

    # (BLOCK_M, GROUP), the codes of the best group
    b_codes = b_found[:, None] + tl.arange(0, GROUP)[None, :]
    b_squares = _squared_distances(z_ptr + o_m[:, None] * D, m_m[:, None], codes_ptr, b_codes, True, D, GROUP)
    b_distance = tl.min(b_squares, axis=1)
    b_answer = tl.min(tl.where(b_squares == b_distance[:, None], b_codes, i_last), axis=1)

    # one vector at a time, since they are few; ~(a > b) is true for NaN too
    m_close = m_m & ~(b_next - b_least > _score_error(b_square, b_least, D, INNER))
    for _ in range(tl.sum(m_close.to(tl.int32), axis=0)):
        i_row = tl.min(tl.where(m_close, o_row, BLOCK_M), axis=0)
        p_z = z_ptr + (tl.program_id(0).to(tl.int64) * BLOCK_M + i_row) * D
        i_distance, i_answer = _exact_search(p_z, codes_ptr, i_first, i_last, D, GROUP, SEARCH)
        b_distance = tl.where(o_row == i_row, i_distance, b_distance)
        b_answer = tl.where(o_row == i_row, i_answer, b_answer)
        m_close = m_close & (o_row != i_row)

    b_index = tl.minimum(b_answer, K - 1).to(tl.int64)
    if SHARE < PADDED:
        # the bits of floats that are not negative have the order of the floats
        b_key = (b_distance.to(tl.int32, bitcast=True).to(tl.int64) << 32) | b_index
        tl.store(out_ptr + i_share.to(tl.int64) * M + o_m, b_key, mask=m_m)
    else:
        tl.store(out_ptr + o_m, b_index, mask=m_m)


@triton.jit(do_not_specialize=["M"])
def merge_kernel(
    keys_ptr, out_ptr, M, SHARES: tl.constexpr, BLOCK_M: tl.constexpr, PDL: tl.constexpr
):  # fmt: skip
    """Compute the index (M,) of the least of (SHARES, M) keys; the lowest index wins ties."""
    o_m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    m_m = o_m < M
    wait_for_inputs(PDL)
    b_key = tl.load(keys_ptr + o_m, mask=m_m, other=0)
    for i_share in tl.static_range(1, SHARES):
        b_key = tl.minimum(b_key, tl.load(keys_ptr + i_share * M.to(tl.int64) + o_m, mask=m_m, other=0))
    tl.store(out_ptr + o_m, b_key & 0xFFFFFFFF, mask=m_m)
