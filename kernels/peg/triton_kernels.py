"""Triton kernels of the positional convolution: memory is read once, and neighbours share the first-level cache.

A thread owns ROWS x COLUMNS neighbouring positions of a few channels, with all 27 taps in registers, and visits each
source frame once. A value is loaded and widened once for nine taps in space and three in time. Offsets and masks are
uniform over a warp. A frame is stored as soon as no later source frame reaches it; frames outside of the clip are not
read. Short clips keep the sums of all frames in registers and unroll the loop over frames; longer clips keep those of
three frames. The gradient of the input is the same loop backwards in time with the taps mirrored in space.

Prefixes: `b_` tiles, `o_` offsets, `m_` masks, `i_` indices, `n_` counts.
"""

# The language of kernels is not Python: its values have no Python types, and its tuples cannot be unpacked.
# mypy: ignore-errors
# ruff: noqa: RUF005

from __future__ import annotations

import triton
import triton.language as tl

from kernels.runtime.pdl import wait_for_inputs


@triton.jit
def _wide(b):
    """Convert to float32; bfloat16 takes one instruction a value, two thirds of the compiler's."""
    if b.dtype == tl.bfloat16:
        b = tl.inline_asm_elementwise(
            "shl.b32 $0, $2, 16; and.b32 $1, $2, 0xffff0000;", "=r,=r,r", [b], dtype=tl.int32, is_pure=True, pack=2
        ).to(tl.float32, bitcast=True)
    else:
        b = b.to(tl.float32)
    return b


@triton.jit
def _row_of(frame, y, x, T, inverse, H, W, SCRAMBLED: tl.constexpr):
    """Return the memory row of a position; SCRAMBLED frames reinterpret the memory of (h, w, T) as (T, h, w).

    `inverse` is 2**32 / T rounded up: the upper half of row * inverse is row // T for rows below 2**32 / T.
    """
    row = (frame * H + y) * W + x
    if SCRAMBLED:
        quotient = tl.umulhi(row.to(tl.uint32), inverse.to(tl.uint32)).to(tl.int32)
        row = (row - quotient * T) * (H * W) + quotient
    return row


@triton.jit
def _load_taps(
    weight_ptr, o_c, m_c, BEFORE: tl.constexpr, BACKWARD: tl.constexpr, ALONE: tl.constexpr, C: tl.constexpr
):  # fmt: skip
    """Load 27 taps over (t, y, x), the residual added to the centre; of a frame ALONE only its nine."""
    b_w = ()
    for tap in tl.static_range(27):
        if ALONE and tap // 9 != BEFORE:
            b_w = b_w + (0.0,)
        else:
            weights = weight_ptr + (9 * (tap // 9) + 8 - tap % 9 if BACKWARD else tap) * C
            b_tap = _wide(tl.load(weights + o_c, mask=m_c, other=0.0))
            if tap == 9 * BEFORE + 4:
                b_tap += 1.0
            b_w = b_w + (b_tap,)
    return b_w


@triton.jit
def _add_frame(
    sums, b_w, source_ptr, frame, y, x, o_c, m_rows, m_columns, m_c, T, inverse, H, W,
    FIRST: tl.constexpr, LAST: tl.constexpr, TAP: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    C: tl.constexpr, EVEN: tl.constexpr, SCRAMBLED: tl.constexpr,
):  # fmt: skip
    """Add a source frame to the sums of frames FIRST to LAST: to frame f with tap TAP - f in time.

    `source_ptr` points to the frame's row above the tile, or to the start of the clip if SCRAMBLED.
    """
    N: tl.constexpr = ROWS * COLUMNS
    for i_row in tl.static_range(ROWS + 2):
        values = ()
        for i_x in tl.static_range(COLUMNS + 2):
            if SCRAMBLED:
                at = source_ptr + _row_of(frame, y + (i_row - 1), x + (i_x - 1), T, inverse, H, W, SCRAMBLED) * C + o_c
            else:
                at = source_ptr + (x * C + o_c) + (i_x - 1) * C
            m_x = m_c
            if not EVEN or i_row == 0 or i_row == ROWS + 1:
                m_x = m_x & m_rows[i_row]
            if not EVEN or i_x == 0 or i_x == COLUMNS + 1:
                m_x = m_x & m_columns[i_x]
            # (PATCHES, BLOCK_C)
            values = values + (_wide(tl.load(at, mask=m_x, other=0.0)),)
        if not SCRAMBLED:
            source_ptr += W * C
        found = ()
        for i in tl.static_range(len(sums)):
            b_sum = sums[i]
            if i // N >= FIRST and i // N <= LAST and i_row >= i // COLUMNS % ROWS and i_row < i // COLUMNS % ROWS + 3:
                for tap_x in tl.static_range(3):
                    b_tap = b_w[9 * (TAP - i // N) + 3 * (i_row - i // COLUMNS % ROWS) + tap_x]
                    b_sum = tl.fma(values[i % COLUMNS + tap_x], b_tap, b_sum)
            found = found + (b_sum,)
        sums = found
    return sums


@triton.jit
def _store_frame(
    sums, out_ptr, frame, m_frame, y, x, o_c, m_rows, m_columns, m_c, T, inverse, H, W,
    AT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, C: tl.constexpr,
    EVEN: tl.constexpr, SCRAMBLED: tl.constexpr,
):  # fmt: skip
    """Store the sums of frame AT; `out_ptr` points to the frame's row, or to the clip if SCRAMBLED."""
    for i in tl.static_range(ROWS * COLUMNS):
        if SCRAMBLED:
            at = out_ptr + _row_of(frame, y + i // COLUMNS, x + i % COLUMNS, T, inverse, H, W, SCRAMBLED) * C + o_c
        else:
            at = out_ptr + (x * C + o_c) + i % COLUMNS * C
        b_out = sums[AT * ROWS * COLUMNS + i].to(out_ptr.dtype.element_ty)
        m_out = m_frame
        if not EVEN:
            m_out = m_out & m_rows[i // COLUMNS + 1] & m_columns[i % COLUMNS + 1] & m_c
        tl.store(at, b_out, mask=m_out)
        if not SCRAMBLED and i % COLUMNS == COLUMNS - 1:
            out_ptr += W * C


@triton.jit
def _program_tile(
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, PATCHES: tl.constexpr, BLOCK_C: tl.constexpr, C: tl.constexpr, H, W
):
    """Return a program's first row, columns and channels, and masks of the rows and columns around them."""
    n_c: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    i_c = tl.program_id(0) % n_c
    # (PATCHES, 1)
    x = ((tl.program_id(0) // n_c) * PATCHES + tl.arange(0, PATCHES)[:, None]) * COLUMNS
    y = tl.program_id(1) * ROWS
    # (PATCHES, BLOCK_C), as all loads, which gives them one layout over the threads
    o_c = (i_c * BLOCK_C + tl.arange(0, BLOCK_C))[None, :] + tl.zeros((PATCHES, 1), tl.int32)
    m_rows, m_columns = (), ()
    for i in tl.static_range(ROWS + 2):
        m_rows = m_rows + ((y + (i - 1) >= 0) & (y + (i - 1) < H),)
    for i in tl.static_range(COLUMNS + 2):
        m_columns = m_columns + ((x + (i - 1) >= 0) & (x + (i - 1) < W),)
    return y, x, o_c, (o_c < C) | (C % BLOCK_C == 0), m_rows, m_columns


@triton.jit
def _initial_sums(bias_ptr, o_c, m_c, BACKWARD: tl.constexpr, COUNT: tl.constexpr):
    """Return COUNT initial sums: the bias, or zeros if BACKWARD."""
    b_start = tl.zeros(o_c.shape, tl.float32)
    if not BACKWARD:
        b_start = _wide(tl.load(bias_ptr + o_c, mask=m_c, other=0.0))
    sums = ()
    for _ in tl.static_range(COUNT):
        sums = sums + (b_start,)
    return sums


@triton.jit
def _item_pointers(x_ptr, out_ptr, past_ptr, T, H, W, C: tl.constexpr):
    """Return pointers to the program's batch item, and the values of one of its frames."""
    i_b = tl.program_id(2).to(tl.int64)
    size = H * W * C
    return x_ptr + i_b * T * size, out_ptr + i_b * T * size, past_ptr + i_b * 2 * size, size


@triton.jit(do_not_specialize=["inverse", "H", "W"])
def peg_kernel(
    x_ptr, past_ptr, weight_ptr, bias_ptr, out_ptr, inverse, H, W,
    C: tl.constexpr, FRAMES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, PATCHES: tl.constexpr,
    BLOCK_C: tl.constexpr, EVEN: tl.constexpr, LATER: tl.constexpr, BACKWARD: tl.constexpr, CARRIED: tl.constexpr,
    SCRAMBLED: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Compute out[p] = x[p] + bias + sum_{tap} weight[tap] x[p + tap] of a short clip, or the gradient of its input.

    A program owns FRAMES x ROWS x (PATCHES * COLUMNS) positions of BLOCK_C channels.

    Args:
        x_ptr: (B, FRAMES, H, W, C), the input, or the gradient of the output.
        past_ptr: (B, 2, H, W, C), the frames before the first, read if CARRIED.
        weight_ptr, bias_ptr: (3, 3, 3, C) and (C,).
        out_ptr: (B, FRAMES, H, W, C).
        inverse: of FRAMES, see `_row_of`.
        EVEN: tiles divide the grid and the channels, and only the border around a tile is masked.
        LATER: number of later frames that an output reads: 0 causal, 1 otherwise.
        SCRAMBLED: published order.
    """
    BEFORE: tl.constexpr = 2 - LATER
    y, x, o_c, m_c, m_rows, m_columns = _program_tile(ROWS, COLUMNS, PATCHES, BLOCK_C, C, H, W)
    x_ptr, out_ptr, past_ptr, size = _item_pointers(x_ptr, out_ptr, past_ptr, FRAMES, H, W, C)
    wait_for_inputs(PDL)
    b_w = _load_taps(weight_ptr, o_c, m_c, BEFORE, BACKWARD, FRAMES == 1 and not CARRIED, C)
    sums = _initial_sums(bias_ptr, o_c, m_c, BACKWARD, FRAMES * ROWS * COLUMNS)

    FIRST: tl.constexpr = -BEFORE if CARRIED else 0
    if not SCRAMBLED:  # pointers advance by one frame a step, cheaper than computing offsets
        frame = FRAMES - 1 if BACKWARD else 0
        out_ptr += (frame * H + y) * (W * C)
        x_ptr += ((frame - FIRST if BACKWARD else frame + FIRST) * H + y - 1) * (W * C)
        past_ptr += ((frame + FIRST + 2) * H + y - 1) * (W * C)
        size = -size if BACKWARD else size
    for step in tl.static_range(FIRST, FRAMES):
        sums = _add_frame(
            sums, b_w, past_ptr if step < 0 else x_ptr, FRAMES - 1 - step if BACKWARD else step, y, x, o_c,
            m_rows, m_columns, m_c, FRAMES, inverse, H, W,
            max(0, step - LATER), min(FRAMES - 1, step + BEFORE), step + BEFORE, ROWS, COLUMNS, C, EVEN, SCRAMBLED,
        )  # fmt: skip
        for i in tl.static_range(FRAMES):
            if i + LATER == step or (i + LATER > step and step == FRAMES - 1):  # the last source frame that it reads
                _store_frame(
                    sums, out_ptr, FRAMES - 1 - i if BACKWARD else i, True, y, x, o_c, m_rows, m_columns, m_c,
                    FRAMES, inverse, H, W, i, ROWS, COLUMNS, C, EVEN, SCRAMBLED,
                )  # fmt: skip
                if not SCRAMBLED:
                    out_ptr += size
        if not SCRAMBLED:
            x_ptr += size
            past_ptr += size


@triton.jit(do_not_specialize=["T", "inverse", "H", "W"])
def peg_clip_kernel(
    x_ptr, past_ptr, weight_ptr, bias_ptr, out_ptr, T, inverse, H, W,
    C: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, PATCHES: tl.constexpr, BLOCK_C: tl.constexpr,
    EVEN: tl.constexpr, LATER: tl.constexpr, BACKWARD: tl.constexpr, CARRIED: tl.constexpr,
    SCRAMBLED: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Compute `peg_kernel` for any number of frames, with the sums of the three frames that a source frame reaches.

    A program owns ROWS x (PATCHES * COLUMNS) positions of all frames and BLOCK_C channels.

    Args:
        x_ptr, out_ptr: (B, T, H, W, C); the others as in `peg_kernel`.
    """
    BEFORE: tl.constexpr = 2 - LATER
    ALWAYS: tl.constexpr = LATER == 0 and not CARRIED  # the first source frame completes a frame
    N: tl.constexpr = ROWS * COLUMNS
    y, x, o_c, m_c, m_rows, m_columns = _program_tile(ROWS, COLUMNS, PATCHES, BLOCK_C, C, H, W)
    x_ptr, out_ptr, past_ptr, size = _item_pointers(x_ptr, out_ptr, past_ptr, T, H, W, C)
    wait_for_inputs(PDL)
    b_w = _load_taps(weight_ptr, o_c, m_c, BEFORE, BACKWARD, False, C)
    start = _initial_sums(bias_ptr, o_c, m_c, BACKWARD, N)
    sums = start + start + start

    first = -2 if CARRIED else 0
    if not SCRAMBLED:  # as in `peg_kernel`
        frame = T - 1 if BACKWARD else first
        size = -size if BACKWARD else size
        x_ptr += (frame * H + y - 1).to(tl.int64) * (W * C)
        out_ptr += (frame * H + y).to(tl.int64) * (W * C) - LATER * size
        past_ptr += (y - 1) * (W * C)
    for step in range(first, T):
        source_ptr = x_ptr
        if CARRIED:
            if step < 0:
                source_ptr = past_ptr
            past_ptr += size
        frame = T - 1 - step if BACKWARD else step
        sums = _add_frame(
            sums, b_w, source_ptr, frame, y, x, o_c, m_rows, m_columns, m_c, T, inverse, H, W,
            0, 2, 2, ROWS, COLUMNS, C, EVEN, SCRAMBLED,
        )  # fmt: skip
        _store_frame(
            sums, out_ptr, frame + LATER if BACKWARD else frame - LATER, ALWAYS or step >= LATER, y, x, o_c,
            m_rows, m_columns, m_c, T, inverse, H, W, 0, ROWS, COLUMNS, C, EVEN, SCRAMBLED,
        )  # fmt: skip
        rest = ()
        for i in tl.static_range(2 * N):
            rest = rest + (sums[N + i],)
        sums = rest + start
        if not SCRAMBLED:
            x_ptr += size
            out_ptr += size
    if LATER:
        _store_frame(
            sums, out_ptr, 0 if BACKWARD else T - 1, True, y, x, o_c, m_rows, m_columns, m_c, T, inverse, H, W,
            0, ROWS, COLUMNS, C, EVEN, SCRAMBLED,
        )  # fmt: skip


@triton.jit
def _add_products(
    sums, b_g0, b_g1, b_g2, source_ptr, frame, y, x, m_tile, o_c, m_c, T, inverse, H, W,
    C: tl.constexpr, LATER: tl.constexpr, IMAGE: tl.constexpr, SCRAMBLED: tl.constexpr,
):  # fmt: skip
    """Add the products of one frame, shifted nine ways, with the output gradients of the frames that read it."""
    found = ()
    for tap in tl.static_range(9):
        at_y = y + (tap // 3 - 1)
        at_x = x + (tap % 3 - 1)
        m_p = m_tile & (at_y >= 0) & (at_y < H) & (at_x >= 0) & (at_x < W)
        o_p = _row_of(frame, at_y, at_x, T, inverse, H, W, SCRAMBLED) * C
        # (BLOCK_X, BLOCK_C)
        b_x = tl.load(source_ptr + o_p[:, None] + o_c[None, :], mask=m_p[:, None] & m_c[None, :], other=0.0)
        b_x = b_x.to(tl.float32)
        if IMAGE:
            found = found + (sums[tap] + b_x * b_g0,)
        else:
            found = found + (
                sums[3 * tap] + b_x * b_g2,
                sums[3 * tap + 1] + b_x * b_g1,
                sums[3 * tap + 2] + b_x * b_g0,
            )
    return found


@triton.jit
def _load_frame(
    source_ptr, frame, T, inverse, y, x, m_tile, o_c, m_c, H, W, C: tl.constexpr, SCRAMBLED: tl.constexpr
):  # fmt: skip
    """Load a tile (BLOCK_X, BLOCK_C) of a frame in float32; zeros outside of the clip."""
    o_p = _row_of(frame, y, x, T, inverse, H, W, SCRAMBLED) * C
    m_p = m_tile & (frame >= 0) & (frame < T)
    return tl.load(
        source_ptr + o_p[:, None] + o_c[None, :], mask=m_p[:, None] & m_c[None, :], other=0.0
    ).to(tl.float32)  # fmt: skip


@triton.jit(do_not_specialize=["T", "inverse", "H", "W", "items", "share"])
def peg_weight_kernel(
    x_ptr, grad_ptr, partial_ptr, T, inverse, H, W, items, share,
    C: tl.constexpr, BLOCK_X: tl.constexpr, BLOCK_C: tl.constexpr,
    LATER: tl.constexpr, CARRIED: tl.constexpr, IMAGE: tl.constexpr, SCRAMBLED: tl.constexpr,
):  # fmt: skip
    """Compute partial sums of dweight[tap] = sum_p grad[p] x[p + tap] and dbias = sum_p grad[p].

    Each program adds up its own rows in order; the launch adds up the programs.

    Args:
        x_ptr: (B, T + 2 * CARRIED, H, W, C), the input after the frames before it.
        grad_ptr: (B, T, H, W, C), the gradient of the output.
        partial_ptr: (programs, 28, C) float32; 27 taps over (t, y, x), or with IMAGE the first 9, and the bias last.
        items: segments of BLOCK_X columns of a row, with all frames, over all clips.
        share: consecutive segments of a program, below each other, which share rows in the cache.
    """
    n_c: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    i_c = tl.program_id(0) % n_c
    i_program = tl.program_id(0) // n_c
    n_x = tl.cdiv(W, BLOCK_X)
    o_c = i_c * BLOCK_C + tl.arange(0, BLOCK_C)
    m_c = o_c < C
    size = H * W * C

    zero = tl.zeros((BLOCK_X, BLOCK_C), tl.float32)
    b_bias = zero
    sums = ()
    for _ in tl.static_range(9 if IMAGE else 27):
        sums = sums + (zero,)
    for item in range(i_program * share, min(i_program * share + share, items)):
        y = item % H + tl.zeros((BLOCK_X,), tl.int32)
        x = (item // H) % n_x * BLOCK_X + tl.arange(0, BLOCK_X)
        i_b = (item // (H * n_x)).to(tl.int64)
        m_tile = x < W
        x_base = x_ptr + i_b * (T + 2 * CARRIED) * size
        g_base = grad_ptr + i_b * T * size
        if IMAGE:  # T is 1 and needs no division
            b_g0 = _load_frame(g_base, 0, 1, 0, y, x, m_tile, o_c, m_c, H, W, C, False)
            b_bias += b_g0
            sums = _add_products(
                sums, b_g0, b_g0, b_g0, x_base, 0, y, x, m_tile, o_c, m_c, 1, 0, H, W, C, LATER, True, False
            )
        else:
            first = -2 * CARRIED
            b_g0 = _load_frame(g_base, first - LATER, T, inverse, y, x, m_tile, o_c, m_c, H, W, C, SCRAMBLED)
            b_g1 = _load_frame(g_base, first - LATER + 1, T, inverse, y, x, m_tile, o_c, m_c, H, W, C, SCRAMBLED)
            b_bias += b_g0 + b_g1
            for frame in range(first, T):
                b_g2 = _load_frame(g_base, frame - LATER + 2, T, inverse, y, x, m_tile, o_c, m_c, H, W, C, SCRAMBLED)
                b_bias += b_g2
                sums = _add_products(
                    sums, b_g0, b_g1, b_g2, x_base, frame + 2 * CARRIED, y, x, m_tile, o_c, m_c, T, inverse, H, W,
                    C, LATER, False, SCRAMBLED,
                )  # fmt: skip
                b_g0 = b_g1
                b_g1 = b_g2
    o_partial = partial_ptr + i_program * 28 * C + o_c
    for tap in tl.static_range(9 if IMAGE else 27):
        # a clip's sums are ordered (y, x, t)
        row = o_partial + (tap if IMAGE else (tap % 3) * 9 + tap // 3) * C
        tl.store(row, tl.sum(sums[tap], axis=0), mask=m_c)
    tl.store(o_partial + 27 * C, tl.sum(b_bias, axis=0), mask=m_c)
