"""Triton kernels of patchify and unpatchify: reads and writes are contiguous on both sides.

A program owns COLUMNS neighbouring patches with all of their FRAMES frames. In the clip they are FRAMES * SIDE rows of
pixels; four pixels are twelve bytes, three 32-bit words:

    word 0 = r0 g0 b0 r1,  word 1 = g1 b1 r2 g2,  word 2 = b2 r3 g3 b3   (lowest byte first)

One colour of a patch is a run of FRAMES * SIDE * SIDE values; a transposition in shared memory connects the two.

Prefixes: `b_` tiles, `o_` offsets, `m_` masks, `p_` pointers, `i_` indices.
"""

# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

from kernels.runtime.pdl import wait_for_inputs

COLOURS: tl.constexpr = tl.constexpr(3)
MAX_BYTE: tl.constexpr = tl.constexpr(255.0)
INV_MAX_BYTE: tl.constexpr = tl.constexpr(1.0 / 255.0)
ROUNDING_OFFSET: tl.constexpr = tl.constexpr(8388608.0)  # 2^23, which rounds a float into its lowest bits


@triton.jit
def _program_indices(times, down, across, COLUMNS: tl.constexpr):
    """Return the item, time, row of patches and first column of this program."""
    i_program = tl.program_id(0)
    blocks = tl.cdiv(across, COLUMNS)
    i_column = i_program % blocks * COLUMNS
    i_row = i_program // blocks % down
    i_time = i_program // (blocks * down) % times
    return (i_program // (blocks * down * times)).to(tl.int64), i_time.to(tl.int64), i_row, i_column


@triton.jit
def _word_offsets(i_row, i_column, down, across, FRAMES: tl.constexpr, SIDE: tl.constexpr, COLUMNS: tl.constexpr):
    """Return the first word of each group of four pixels, counted from the patches' first frame.

    Returns:
        offsets (FRAMES * SIDE, COLUMNS * SIDE / 4), int64, and their mask.
    """
    o_line, o_group = tl.arange(0, FRAMES * SIDE), tl.arange(0, COLUMNS * SIDE // 4)
    o_y = (o_line // SIDE).to(tl.int64) * (down * SIDE) + i_row * SIDE + o_line % SIDE
    o_word = (o_y[:, None] * (across * (SIDE // 4)) + i_column * (SIDE // 4) + o_group[None, :]) * COLOURS
    m_group = i_column + o_group // (SIDE // 4) < across
    return o_word, m_group[None, :] & (o_line >= 0)[:, None]


@triton.jit
def _byte(b_word, BYTE: tl.constexpr):
    """Return one byte of each word, as float32."""
    return ((b_word >> (8 * BYTE)) & 255).to(tl.float32)


@triton.jit
def _interleave(b_0, b_1, b_2, b_3):
    """Interleave the columns of four tiles (LINES, GROUPS): (LINES, 4 GROUPS)."""
    b_all = tl.join(tl.join(b_0, b_2), tl.join(b_1, b_3))
    return tl.reshape(b_all, (b_0.shape[0], 4 * b_0.shape[1]))


@triton.jit
def _to_unit_range(b_byte):
    """Return byte / 255 - 0.5 with the rounding of a division."""
    b_quotient = b_byte * INV_MAX_BYTE
    b_rest = tl.fma(-b_quotient, MAX_BYTE, b_byte)
    return tl.fma(b_rest, INV_MAX_BYTE, b_quotient) - 0.5


@triton.jit
def _by_patch(b_lines, FRAMES: tl.constexpr, SIDE: tl.constexpr, COLUMNS: tl.constexpr):
    """Transpose (FRAMES * SIDE, COLUMNS * SIDE) by pixels to (COLUMNS, FRAMES * SIDE * SIDE) by patches."""
    b_split = tl.reshape(b_lines, (FRAMES * SIDE, COLUMNS, SIDE))
    return tl.reshape(tl.permute(b_split, (1, 0, 2)), (COLUMNS, FRAMES * SIDE * SIDE))


@triton.jit
def _sum_by_patch(b_lines, FRAMES: tl.constexpr, SIDE: tl.constexpr, COLUMNS: tl.constexpr):
    """Sum the values (FRAMES * SIDE, COLUMNS * SIDE) of each patch: (COLUMNS,)."""
    return tl.sum(tl.reshape(tl.sum(b_lines, 0), (COLUMNS, SIDE)), 1)


@triton.jit
def _repeat(b_patch, SIDE: tl.constexpr, COLUMNS: tl.constexpr):
    """Repeat a value of each patch (COLUMNS,) for its columns of pixels: (1, COLUMNS * SIDE)."""
    b_wide = tl.broadcast_to(b_patch[:, None], (COLUMNS, SIDE))
    return tl.reshape(b_wide, (COLUMNS * SIDE,))[None, :]


@triton.jit(do_not_specialize=["times", "down", "across", "item_stride"])
def patchify_kernel(
    pixels, out, times, down, across, item_stride, eps,
    NORMED: tl.constexpr, FRAMES: tl.constexpr, SIDE: tl.constexpr, COLUMNS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Compute the vectors of COLUMNS patches: v = byte / 255 - 0.5, or (v - mean) / sqrt(var(v) + eps) if NORMED.

    Args:
        pixels: (B, T, H, W, 3) bytes; `item_stride` is in words, and the frames of an item are contiguous.
        out: (B, times, down, across, 3 FRAMES SIDE SIDE).
    """
    i_item, i_time, i_row, i_column = _program_indices(times, down, across, COLUMNS)
    o_word, m_word = _word_offsets(i_row, i_column, down, across, FRAMES, SIDE, COLUMNS)
    frame = (down * SIDE).to(tl.int64) * (across * (SIDE // 4)) * COLOURS
    p_word = pixels.to(tl.pointer_type(tl.int32)) + i_item * item_stride + i_time * FRAMES * frame + o_word
    wait_for_inputs(PDL)
    # (LINES, GROUPS)
    b_0 = tl.load(p_word, mask=m_word, other=0)
    b_1 = tl.load(p_word + 1, mask=m_word, other=0)
    b_2 = tl.load(p_word + 2, mask=m_word, other=0)
    # (LINES, PIXELS)
    b_red = _interleave(_byte(b_0, 0), _byte(b_0, 3), _byte(b_1, 2), _byte(b_2, 1))
    b_green = _interleave(_byte(b_0, 1), _byte(b_1, 0), _byte(b_1, 3), _byte(b_2, 2))
    b_blue = _interleave(_byte(b_0, 2), _byte(b_1, 1), _byte(b_2, 0), _byte(b_2, 3))
    RUN: tl.constexpr = FRAMES * SIDE * SIDE
    if NORMED:  # of the bytes: the mean removes the offset, and eps absorbs the scale
        b_sum = _sum_by_patch(b_red + b_green + b_blue, FRAMES, SIDE, COLUMNS)
        b_mean = _repeat(b_sum * (1.0 / (COLOURS * RUN)), SIDE, COLUMNS)
        b_red -= b_mean
        b_green -= b_mean
        b_blue -= b_mean
        b_squares = _sum_by_patch(b_red * b_red + b_green * b_green + b_blue * b_blue, FRAMES, SIDE, COLUMNS)
        b_inverse = tl.rsqrt(b_squares * (1.0 / (COLOURS * RUN)) + eps * (MAX_BYTE * MAX_BYTE))
        b_inverse = _repeat(b_inverse, SIDE, COLUMNS)
        b_red *= b_inverse
        b_green *= b_inverse
        b_blue *= b_inverse
    else:
        b_red, b_green, b_blue = _to_unit_range(b_red), _to_unit_range(b_green), _to_unit_range(b_blue)

    # (COLUMNS, RUN)
    o_column = i_column + tl.arange(0, COLUMNS)
    i_first = ((i_item * times + i_time) * down + i_row) * across
    p_out = out + (i_first + o_column)[:, None] * (COLOURS * RUN) + tl.arange(0, RUN)[None, :]
    m_out = (o_column < across)[:, None]
    dtype = out.dtype.element_ty
    tl.store(p_out, _by_patch(b_red.to(dtype), FRAMES, SIDE, COLUMNS), mask=m_out)
    tl.store(p_out + RUN, _by_patch(b_green.to(dtype), FRAMES, SIDE, COLUMNS), mask=m_out)
    tl.store(p_out + 2 * RUN, _by_patch(b_blue.to(dtype), FRAMES, SIDE, COLUMNS), mask=m_out)


@triton.jit
def _bytes(
    p_value, p_bias, mask, BIASED: tl.constexpr, FRAMES: tl.constexpr, SIDE: tl.constexpr, COLUMNS: tl.constexpr
):  # fmt: skip
    """Return the bytes of one colour, int32: pixels 0 to 3 of each group, (LINES, GROUPS) each."""
    # (COLUMNS, RUN)
    b_value = tl.load(p_value, mask=mask, other=0.0).to(tl.float32)
    if BIASED:
        b_value += tl.load(p_bias).to(tl.float32)
    # clamping separates the product from the sum; fused, they would round once instead of twice
    b_value = tl.minimum(tl.maximum((b_value + 0.5) * MAX_BYTE, 0.0), MAX_BYTE)
    b_byte = (b_value + ROUNDING_OFFSET).to(tl.int32, bitcast=True) & 255
    b_byte = tl.permute(tl.reshape(b_byte, (COLUMNS, FRAMES * SIDE, SIDE)), (1, 0, 2))
    b_even, b_odd = tl.split(tl.reshape(b_byte, (FRAMES * SIDE, COLUMNS * SIDE // 4, 2, 2)))
    b_0, b_2 = tl.split(b_even)
    b_1, b_3 = tl.split(b_odd)
    return b_0, b_1, b_2, b_3


@triton.jit(do_not_specialize=["times", "down", "across", "begin", "length"])
def unpatchify_kernel(
    patches, bias, out, times, down, across, begin, length,
    BIASED: tl.constexpr, FRAMES: tl.constexpr, SIDE: tl.constexpr, COLUMNS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Compute the pixels of COLUMNS patches: byte = clamp(round(255 (v + bias + 0.5)), 0, 255).

    Args:
        patches: (B, times, down, across, 3 FRAMES SIDE SIDE).
        out: (B, length, H, W, 3) bytes, written from frame `begin` on.
    """
    i_item, i_time, i_row, i_column = _program_indices(times, down, across, COLUMNS)
    RUN: tl.constexpr = FRAMES * SIDE * SIDE
    # (COLUMNS, RUN)
    o_column = i_column + tl.arange(0, COLUMNS)
    i_first = ((i_item * times + i_time) * down + i_row) * across
    p_value = patches + (i_first + o_column)[:, None] * (COLOURS * RUN) + tl.arange(0, RUN)[None, :]
    p_bias, m_value = bias + tl.arange(0, RUN)[None, :], (o_column < across)[:, None]
    wait_for_inputs(PDL)
    # (LINES, GROUPS) each
    r_0, r_1, r_2, r_3 = _bytes(p_value, p_bias, m_value, BIASED, FRAMES, SIDE, COLUMNS)
    g_0, g_1, g_2, g_3 = _bytes(p_value + RUN, p_bias + RUN, m_value, BIASED, FRAMES, SIDE, COLUMNS)
    b_0, b_1, b_2, b_3 = _bytes(p_value + 2 * RUN, p_bias + 2 * RUN, m_value, BIASED, FRAMES, SIDE, COLUMNS)
    word_0 = r_0 | (g_0 << 8) | (b_0 << 16) | (r_1 << 24)
    word_1 = g_1 | (b_1 << 8) | (r_2 << 16) | (g_2 << 24)
    word_2 = b_2 | (r_3 << 8) | (g_3 << 16) | (b_3 << 24)
    # (LINES, GROUPS, 4), the fourth word padding, since neighbouring threads then store neighbouring words
    LINES: tl.constexpr = FRAMES * SIDE
    GROUPS: tl.constexpr = COLUMNS * SIDE // 4
    b_words = tl.reshape(tl.join(tl.join(word_0, word_2), tl.join(word_1, word_1)), (LINES, GROUPS, 4))
    o_word, m_word = _word_offsets(i_row, i_column, down, across, FRAMES, SIDE, COLUMNS)
    o_third = tl.arange(0, 4)[None, None, :]
    frame = (down * SIDE).to(tl.int64) * (across * (SIDE // 4)) * COLOURS
    p_out = out.to(tl.pointer_type(tl.int32)) + (i_item * length + begin + i_time * FRAMES) * frame
    tl.store(p_out + o_word[:, :, None] + o_third, b_words, mask=m_word[:, :, None] & (o_third < COLOURS))
