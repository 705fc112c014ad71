"""Attention of a whole decode step in Gluon: a head's positions split among programs, and their results joined.

Prefixes: `b_` tiles, `o_` offsets, `m_` masks, `p_` pointers, `i_` indices.
"""

# The language of kernels is not Python: its values have no Python types.
# mypy: ignore-errors

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.language import debug_barrier  # Gluon's own name for it differs between 3.6 and 3.7

LOWEST: gl.constexpr = gl.constexpr(-1e30)  # of a stream without positions; finite, since it is subtracted from itself
WIDTH: gl.constexpr = gl.constexpr(32)  # channels of a tile: four threads load 16 bytes each
REPEATS: gl.constexpr = gl.constexpr(2)  # tiles of positions in registers at once


@gluon.jit
def load_positions(p_k, p_v, i_first, stop, D: gl.constexpr, HEAD: gl.constexpr, POSITIONS: gl.constexpr):
    """Load REPEATS tiles of keys, then of values, each as D / WIDTH tiles (POSITIONS, WIDTH), zeros from `stop` on."""
    o_s = i_first + gl.arange(0, POSITIONS, gl.SliceLayout(1, HEAD))
    o_d = gl.arange(0, WIDTH, gl.SliceLayout(0, HEAD))
    b_tiles = ()
    for i_half in gl.static_range(2):
        for i_repeat in gl.static_range(REPEATS):
            o_row = o_s + i_repeat * POSITIONS
            p_x = (p_v if i_half else p_k) + o_row[:, None] * D + o_d[None, :]
            for i in gl.static_range(D // WIDTH):
                b_tiles += (gl.load(p_x + i * WIDTH, mask=(o_row < stop)[:, None], other=0.0),)
    return b_tiles


@gluon.jit
def attend(
    qkv, p_k, p_v, parts, masses, b_tiles, i_row, i_head, i_split, start, stop, length, scale,
    HEADS: gl.constexpr, D: gl.constexpr, SPLITS: gl.constexpr, HEAD: gl.constexpr, POSITIONS: gl.constexpr,
):  # fmt: skip
    """Attend over positions start to stop of a head, the first split over the new one too, which it also stores.

    A thread keeps the maximum and the sums of its own positions, a stream; streams are joined at the end.

    Args:
        b_tiles: the first positions.
        parts: (ROWS, HEADS, SPLITS, D), normalised results.
        masses: (ROWS, HEADS, SPLITS), their weights: log2 of the sum of powers of two.
        scale: D^-1/2 / log 2, since powers of two are computed.
    """
    TILES: gl.constexpr = D // WIDTH
    VALUES: gl.constexpr = REPEATS * TILES  # the first tile of values
    o_s = gl.arange(0, POSITIONS, gl.SliceLayout(1, HEAD))
    o_d = gl.arange(0, WIDTH, gl.SliceLayout(0, HEAD))
    p_new = qkv + (i_row * 3 * HEADS + i_head) * D + o_d
    b_qs, b_new_ks, b_new_vs, b_outs = (), (), (), ()
    for i in gl.static_range(TILES):
        b_qs += (gl.load(p_new + i * WIDTH).to(gl.float32) * scale,)
        b_new_ks += (gl.load(p_new + HEADS * D + i * WIDTH),)
        b_new_vs += (gl.load(p_new + 2 * HEADS * D + i * WIDTH),)
        b_outs += (gl.zeros([POSITIONS, WIDTH], gl.float32, HEAD),)
    b_max = gl.full([POSITIONS], LOWEST, gl.float32, gl.SliceLayout(1, HEAD))
    b_total = gl.zeros([POSITIONS], gl.float32, gl.SliceLayout(1, HEAD))
    for i_first in range(start, stop, REPEATS * POSITIONS):
        b_following = load_positions(p_k, p_v, i_first + REPEATS * POSITIONS, stop, D, HEAD, POSITIONS)
        b_logits, b_largest = (), b_max
        for i_repeat in gl.static_range(REPEATS):
            b_product = b_tiles[i_repeat * TILES].to(gl.float32) * b_qs[0][None, :]
            for i in gl.static_range(1, TILES):
                b_product += b_tiles[i_repeat * TILES + i].to(gl.float32) * b_qs[i][None, :]
            # (POSITIONS,)
            m_seen = i_first + i_repeat * POSITIONS + o_s < stop
            b_logits += (gl.where(m_seen, gl.sum(b_product, 1), float("-inf")),)
            b_largest = gl.maximum(b_largest, b_logits[i_repeat])
        b_fade = gl.exp2(b_max - b_largest)
        b_max, b_total = b_largest, b_total * b_fade
        b_sums = ()
        for i in gl.static_range(TILES):
            b_sums += (b_outs[i] * b_fade[:, None],)
        for i_repeat in gl.static_range(REPEATS):
            b_p = gl.exp2(b_logits[i_repeat] - b_max)
            b_total += b_p
            b_added = ()
            for i in gl.static_range(TILES):
                b_v = b_tiles[VALUES + i_repeat * TILES + i].to(gl.float32)
                b_added += (b_sums[i] + b_v * b_p[:, None],)
            b_sums = b_added
        b_outs = b_sums
        b_tiles = b_following
    largest = gl.max(b_max, 0)
    b_share = gl.exp2(b_max - largest)
    total = gl.sum(b_total * b_share, 0)
    b_product = b_qs[0] * b_new_ks[0].to(gl.float32)
    for i in gl.static_range(1, TILES):
        b_product += b_qs[i] * b_new_ks[i].to(gl.float32)
    owns = (i_split == 0) & (length > 0)
    new_logit = gl.where(owns, gl.sum(b_product, 0), LOWEST)
    most = gl.maximum(largest, new_logit)
    share, new_weight = gl.exp2(largest - most), gl.where(owns, gl.exp2(new_logit - most), 0.0)
    total = total * share + new_weight
    some = total > 0.0
    inverse = gl.where(some, 1.0 / total, 0.0)
    i_part = (i_row * HEADS + i_head) * SPLITS + i_split
    for i in gl.static_range(TILES):
        b_out = (gl.sum(b_outs[i] * b_share[:, None], 0) * share + new_weight * b_new_vs[i].to(gl.float32)) * inverse
        gl.store(parts + i_part * D + i * WIDTH + o_d, b_out.to(parts.dtype.element_ty))
        m_write = owns & (o_d < WIDTH)
        gl.store(p_k + (length - 1) * D + i * WIDTH + o_d, b_new_ks[i], mask=m_write)
        gl.store(p_v + (length - 1) * D + i * WIDTH + o_d, b_new_vs[i], mask=m_write)
    gl.store(masses + i_part, gl.where(some, most + gl.log2(gl.where(some, total, 1.0)), LOWEST))


@gluon.jit
def join_heads(
    parts, masses, board, ROWS: gl.constexpr, C: gl.constexpr, D: gl.constexpr, SPLITS: gl.constexpr,
    TILE: gl.constexpr, FLAT: gl.constexpr, PART: gl.constexpr,
):  # fmt: skip
    """Return the attended rows as tiles (PART,), which every warp has whole; `board` is where warps exchange them."""
    o_k = gl.arange(0, PART, FLAT)
    for i_row in gl.static_range(ROWS):
        for i in gl.static_range(C // PART):
            o_channel = i_row * C + i * PART + o_k
            o_part = o_channel // D * SPLITS
            b_masses, b_parts = (), ()
            for i_split in gl.static_range(SPLITS):
                b_masses += (gl.load(masses + o_part + i_split),)
                b_parts += (gl.load(parts + (o_part + i_split) * D + o_channel % D).to(gl.float32),)
            b_most = b_masses[0]
            for i_split in gl.static_range(1, SPLITS):
                b_most = gl.maximum(b_most, b_masses[i_split])
            b_share = gl.exp2(b_masses[0] - b_most)
            b_total, b_out = b_share, b_share * b_parts[0]
            for i_split in gl.static_range(1, SPLITS):
                b_share = gl.exp2(b_masses[i_split] - b_most)
                b_total += b_share
                b_out += b_share * b_parts[i_split]
            board.index(i_row * (C // PART) + i).store(b_out / b_total)
    debug_barrier()
    b_xs = ()
    for i in gl.static_range(ROWS * (C // PART)):
        b_xs += (board.index(i).load(gl.SliceLayout(0, TILE))[None, :],)
    return b_xs
