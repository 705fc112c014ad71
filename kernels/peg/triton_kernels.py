"""Triton kernels of the positional convolution: memory is read once, taps come from the first-level cache.

A program of the convolution keeps the sums of a block of frames and rows in registers and goes through its source rows
once for each shift in x, so that a load serves up to nine taps; frames before the first and after the last are
never touched. The gradient of the input is the same walk backwards in time with the taps mirrored in space.

Prefixes: `b_` tiles, `o_` offsets, `m_` masks, `i_` and `n_` places and their number.
"""

# The language of kernels is not Python: its values have no Python types, and its tuples know no unpacking.
# mypy: ignore-errors
# ruff: noqa: RUF005

from __future__ import annotations

import triton
import triton.language as tl

from kernels.overlap import wait_for_inputs


@triton.jit
def _row_of(frame, y, x, H, W, SCRAMBLED: tl.constexpr):
    """Row of memory of a position; SCRAMBLED frames are the memory of (h, w, T) read as (T, h, w)."""
    row = (frame * H + y) * W + x
    if SCRAMBLED > 1:
        row = (row % SCRAMBLED) * (H * W) + row // SCRAMBLED
    return row


@triton.jit
def _add_frame(
    sums, b_w, source_ptr, frame, m_x, y, at_x, o_c, m_c, H, W,
    STEP: tl.constexpr, ROWS: tl.constexpr, FRAMES: tl.constexpr, BEFORE: tl.constexpr,
    C: tl.constexpr, SCRAMBLED: tl.constexpr,
):  # fmt: skip
    """Add what one source frame, shifted in x, gives to every sum that it reaches.

    STEP is its place in the walk relative to the first frame of the sums; `b_w` are the nine taps over (t, y) of this
    shift.
    """
    rows = ()
    for i_row in tl.static_range(ROWS + 2):
        at_y = y + (i_row - 1)
        m_p = m_x & (at_y >= 0) & (at_y < H)
        o_p = _row_of(frame, at_y, at_x, H, W, SCRAMBLED) * C
        # [BLOCK_X, BLOCK_C]
        b_x = tl.load(source_ptr + o_p[:, None] + o_c[None, :], mask=m_p[:, None] & m_c[None, :], other=0.0)
        rows = rows + (b_x.to(tl.float32),)
    found = ()
    for i_t in tl.static_range(FRAMES):
        for i_row in tl.static_range(ROWS):
            b_sum = sums[i_t * ROWS + i_row]
            if STEP + BEFORE - i_t >= 0 and STEP + BEFORE - i_t < 3:  # the tap in time
                for tap_y in tl.static_range(3):
                    b_sum += rows[i_row + tap_y] * b_w[3 * (STEP + BEFORE - i_t) + tap_y]
            found = found + (b_sum,)
    return found


@triton.jit(do_not_specialize=["T", "H", "W"])
def peg_kernel(
    x_ptr, past_ptr, weight_ptr, bias_ptr, out_ptr, T, H, W,
    C: tl.constexpr, FRAMES: tl.constexpr, ROWS: tl.constexpr, BLOCK_X: tl.constexpr, BLOCK_C: tl.constexpr,
    LATER: tl.constexpr, BACKWARD: tl.constexpr, CARRIED: tl.constexpr, WHOLE: tl.constexpr, SCRAMBLED: tl.constexpr,
    OVERLAPPED: tl.constexpr,
):  # fmt: skip
    """The convolution with its residual, or the gradient of its input.

    A program owns ROWS rows x BLOCK_X columns x BLOCK_C channels of FRAMES frames.

    Args:
        x_ptr: (B, T, H, W, C), the input, or the gradient of the output.
        past_ptr: (B, 2, H, W, C), the frames before the first, read if CARRIED.
        out_ptr: as x.
        LATER: how many later frames are seen: 0 causal, 1 otherwise.
        WHOLE: T == FRAMES, so that a program looks for no frame of another.
        SCRAMBLED: the number of frames in published order, 0 in causal order.
    """
    BEFORE: tl.constexpr = 2 - LATER
    n_c: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    n_x = tl.cdiv(W, BLOCK_X)
    n_y = tl.cdiv(H, ROWS)
    n_t = tl.cdiv(T, FRAMES)
    i_c = tl.program_id(0) % n_c
    i_p = tl.program_id(0) // n_c
    i_x = i_p % n_x
    i_y = (i_p // n_x) % n_y
    i_t = (i_p // (n_x * n_y)) % n_t
    i_b = (i_p // (n_x * n_y * n_t)).to(tl.int64)

    x = i_x * BLOCK_X + tl.arange(0, BLOCK_X)
    y = i_y * ROWS
    o_c = i_c * BLOCK_C + tl.arange(0, BLOCK_C)
    m_c = o_c < C
    size = H * W * C
    x_ptr += i_b * T * size
    out_ptr += i_b * T * size
    past_ptr += i_b * 2 * size
    wait_for_inputs(OVERLAPPED)

    b_start = tl.zeros((BLOCK_X, BLOCK_C), tl.float32)
    if not BACKWARD:
        b_start += tl.load(bias_ptr + o_c, mask=m_c, other=0.0).to(tl.float32)[None, :]
    sums = ()
    for _ in tl.static_range(FRAMES * ROWS):
        sums = sums + (b_start,)
    for tap_x in range(3):
        at_x = x + (tap_x - 1)
        m_x = (at_x >= 0) & (at_x < W)
        b_w = ()
        for tap in tl.static_range(9):  # over (t, y)
            if BACKWARD:
                weights = weight_ptr + (9 * (tap // 3) + 8 - 3 * (tap % 3) - tap_x) * C
            else:
                weights = weight_ptr + (3 * tap + tap_x) * C
            # [1, BLOCK_C]
            b_tap = tl.load(weights + o_c[None, :], mask=m_c[None, :], other=0.0).to(tl.float32)
            if tap == 3 * BEFORE + 1:  # the centre takes the residual along
                b_tap += tl.where(tap_x == 1, 1.0, 0.0)
            b_w = b_w + (b_tap,)
        for step in tl.static_range(-BEFORE if CARRIED or not WHOLE else 0, FRAMES if WHOLE else FRAMES + LATER):
            place = i_t * FRAMES + step
            frame = T - 1 - place if BACKWARD else place
            source_ptr = x_ptr
            m_frame = m_x
            if step < 0 and CARRIED:
                if place < 0:
                    source_ptr = past_ptr
                    frame += 2
            elif not WHOLE:
                m_frame = m_x & (frame >= 0) & (frame < T)
            sums = _add_frame(
                sums, b_w, source_ptr, frame, m_frame, y, at_x, o_c, m_c, H, W,
                step, ROWS, FRAMES, BEFORE, C, SCRAMBLED,
            )  # fmt: skip
    for step in tl.static_range(FRAMES):
        place = i_t * FRAMES + step
        frame = T - 1 - place if BACKWARD else place
        for i_row in tl.static_range(ROWS):
            m_out = (x < W) & (place < T) & (y + i_row < H)
            o_out = _row_of(frame, y + i_row, x, H, W, SCRAMBLED) * C
            b_out = sums[step * ROWS + i_row].to(out_ptr.dtype.element_ty)
            tl.store(out_ptr + o_out[:, None] + o_c[None, :], b_out, mask=m_out[:, None] & m_c[None, :])


@triton.jit
def _add_products(
    sums, b_g0, b_g1, b_g2, source_ptr, frame, y, x, m_tile, o_c, m_c, H, W,
    C: tl.constexpr, LATER: tl.constexpr, IMAGE: tl.constexpr, SCRAMBLED: tl.constexpr,
):  # fmt: skip
    """Products of one frame, shifted nine ways, with the output gradients of the frames that it reaches."""
    found = ()
    for tap in tl.static_range(9):
        at_y = y + (tap // 3 - 1)
        at_x = x + (tap % 3 - 1)
        m_p = m_tile & (at_y >= 0) & (at_y < H) & (at_x >= 0) & (at_x < W)
        o_p = _row_of(frame, at_y, at_x, H, W, SCRAMBLED) * C
        # [BLOCK_P, BLOCK_C]
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
def _load_frame(source_ptr, frame, T, y, x, m_tile, o_c, m_c, H, W, C: tl.constexpr, SCRAMBLED: tl.constexpr):
    """A tile of a frame in float32; zeros where there is no such frame."""
    o_p = _row_of(frame, y, x, H, W, SCRAMBLED) * C
    m_p = m_tile & (frame >= 0) & (frame < T)
    return tl.load(
        source_ptr + o_p[:, None] + o_c[None, :], mask=m_p[:, None] & m_c[None, :], other=0.0
    ).to(tl.float32)  # fmt: skip


@triton.jit(do_not_specialize=["T", "H", "W", "items", "share"])
def peg_weight_kernel(
    x_ptr, grad_ptr, partial_ptr, T, H, W, items, share,
    C: tl.constexpr, BLOCK_X: tl.constexpr, BLOCK_C: tl.constexpr,
    LATER: tl.constexpr, CARRIED: tl.constexpr, IMAGE: tl.constexpr, SCRAMBLED: tl.constexpr,
):  # fmt: skip
    """Partial sums of the gradients of weight and bias: each program adds up its own rows, in order.

    Args:
        x_ptr: (B, T + 2 * CARRIED, H, W, C), the input after the frames before it.
        grad_ptr: (B, T, H, W, C), the gradient of the output.
        partial_ptr: (programs, 28, C) float32; 27 taps over (t, y, x), or with IMAGE the first 9, and the bias last.
        items: row pieces of BLOCK_X columns over all clips, a piece with all of its frames.
        share: pieces of each program, one below the other, so that rows are still in the cache.
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
        if IMAGE:
            b_g0 = _load_frame(g_base, 0, 1, y, x, m_tile, o_c, m_c, H, W, C, 0)
            b_bias += b_g0
            sums = _add_products(sums, b_g0, b_g0, b_g0, x_base, 0, y, x, m_tile, o_c, m_c, H, W, C, LATER, True, 0)
        else:
            first = -2 * CARRIED
            b_g0 = _load_frame(g_base, first - LATER, T, y, x, m_tile, o_c, m_c, H, W, C, SCRAMBLED)
            b_g1 = _load_frame(g_base, first - LATER + 1, T, y, x, m_tile, o_c, m_c, H, W, C, SCRAMBLED)
            b_bias += b_g0 + b_g1
            for frame in range(first, T):
                b_g2 = _load_frame(g_base, frame - LATER + 2, T, y, x, m_tile, o_c, m_c, H, W, C, SCRAMBLED)
                b_bias += b_g2
                sums = _add_products(
                    sums, b_g0, b_g1, b_g2, x_base, frame + 2 * CARRIED, y, x, m_tile, o_c, m_c, H, W,
                    C, LATER, False, SCRAMBLED,
                )  # fmt: skip
                b_g0 = b_g1
                b_g1 = b_g2
    o_partial = partial_ptr + i_program * 28 * C + o_c
    for tap in tl.static_range(9 if IMAGE else 27):
        # sums of a clip are kept as (y, x, t)
        row = o_partial + (tap if IMAGE else (tap % 3) * 9 + tap // 3) * C
        tl.store(row, tl.sum(sums[tap], axis=0), mask=m_c)
    tl.store(o_partial + 27 * C, tl.sum(b_bias, axis=0), mask=m_c)
