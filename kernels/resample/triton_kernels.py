"""Triton kernel of resampling along one axis: a program sums COUNT outputs of LINES lines in int32.

Prefixes: `b_` tiles, `o_` offsets, `m_` masks, `i_` indices.
"""

# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

BITS: tl.constexpr = tl.constexpr(22)
HALF: tl.constexpr = tl.constexpr(1 << 21)


@triton.jit(do_not_specialize=["count", "taps", "inner", "most_lines"])
def resample_kernel(
    values, start, step, outer, lines, sources, table, first, weights, out, count, taps, inner, most_lines,
    ALONG_LAST: tl.constexpr, LINES: tl.constexpr, COUNT: tl.constexpr,
):  # fmt: skip
    """Compute out = clip((2^21 + sum over k of weights[k] values[first + k]) >> 22)."""
    i_item = tl.program_id(1).to(tl.int64)
    blocks = tl.cdiv(count, COUNT)
    i_line = tl.program_id(0) // blocks * LINES
    i_count = tl.program_id(0) % blocks * COUNT
    i_table = tl.load(table + i_item).to(tl.int64)
    i_start = tl.load(start + i_item)
    i_step, i_outer = tl.load(step + i_item), tl.load(outer + i_item)
    last, own_lines = tl.load(sources + i_item) - 1, tl.load(lines + i_item)
    o_line, o_count = i_line + tl.arange(0, LINES), i_count + tl.arange(0, COUNT)
    m_line, m_count = o_line < own_lines, o_count < count
    # (LINES,), within a picture
    o_place = o_line // inner * i_outer + o_line % inner
    b_first = tl.load(first + i_table * count + o_count, mask=m_count, other=0)
    # (LINES, COUNT)
    mask = m_line[:, None] & m_count[None, :]
    b_sum = tl.full((LINES, COUNT), HALF, tl.int32)
    for tap in range(taps):
        b_weight = tl.load(weights + (i_table * taps + tap) * count + o_count, mask=m_count, other=0)
        # weights beyond the last source are 0
        b_source = tl.minimum(b_first + tap, last) * i_step
        b_value = tl.load(values + i_start + o_place[:, None] + b_source[None, :], mask=mask, other=0)
        b_sum += b_value.to(tl.int32) * b_weight[None, :]
    b_result = tl.minimum(tl.maximum(b_sum >> BITS, 0), 255).to(tl.uint8)
    if ALONG_LAST:
        o_out = (o_line // inner * (count * inner) + o_line % inner)[:, None] + (o_count * inner)[None, :]
    else:
        o_out = o_line[:, None] + (o_count * most_lines)[None, :]
    # lines that the picture lacks are 0
    m_out = (o_line < most_lines)[:, None] & m_count[None, :]
    tl.store(out + i_item * most_lines * count + o_out, tl.where(mask, b_result, 0).to(tl.uint8), mask=m_out)
