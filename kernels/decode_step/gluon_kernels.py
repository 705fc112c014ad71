"""Gluon kernel of a whole decode step of one or two rows: one program a multiprocessor, all of them resident.

The weights of a step are one sequence of chunks, dealt out in turn: program p of P takes chunks p, p + P, p + 2 P, ...
It copies them through a ring in shared memory, which waits for no other program. Activations alone wait, at a barrier
of the grid after every phase: weights keep flowing meanwhile. Each warp multiplies one piece of a chunk.

Prefixes: `b_` tiles, `o_` offsets, `m_` masks, `p_` pointers, `i_` indices.
"""

# The language of kernels is not Python: its values have no Python types.
# mypy: ignore-errors

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, tma
from triton.language import debug_barrier  # Gluon's own name for it differs between 3.6 and 3.7

from kernels.decode_step import reference
from kernels.decode_step.gluon_attention import attend, join_heads, load_positions
from kernels.decode_step.gluon_barrier import FLAGS, arrive, prefetch, wait
from kernels.norm.reference import EPS as NORM_EPS

EPS: gl.constexpr = gl.constexpr(NORM_EPS)
QUARTERS: gl.constexpr = gl.constexpr(reference.QUARTERS)  # pieces of a row of the product after the GELU
SQRT_HALF: gl.constexpr = gl.constexpr(0.7071067811865476)


@gluon.jit
def _erf(b_x):
    """Return erf(x) with an error of at most 1.5e-7 (Abramowitz and Stegun 7.1.26), without branches."""
    b_size = gl.abs(b_x)
    b_t = 1.0 / (1.0 + 0.3275911 * b_size)
    b_sum = 0.254829592 + b_t * (-0.284496736 + b_t * (1.421413741 + b_t * (-1.453152027 + b_t * 1.061405429)))
    b_erf = 1.0 - b_t * b_sum * gl.exp(-b_size * b_size)
    return gl.where(b_x < 0.0, -b_erf, b_erf)


@gluon.jit
def _copy(
    weights, biases, rings, added, full, i_chunk, chunks, C: gl.constexpr, STAGES: gl.constexpr, PROGRAMS: gl.constexpr
):
    """Start the copy of this program's chunk `i_chunk` into its stage, if there is one.

    All threads have read the stage before the block's barrier that precedes this call, which is what a write of the
    copy engine after ordinary reads needs; ordinary writes alone would need a fence of the proxies.
    """
    WARPS: gl.constexpr = weights.block_type.shape[0]
    PART: gl.constexpr = weights.block_type.shape[1]
    p_full = full.index(i_chunk % STAGES)
    m_chunk = i_chunk < chunks
    i_piece = (gl.program_id(0) + i_chunk * PROGRAMS) * WARPS
    SIZE: gl.constexpr = WARPS * C * (weights.dtype.primitive_bitwidth // 8) + biases.block_type.shape[0] * 4
    mbarrier.expect(p_full, SIZE, pred=m_chunk)
    tma.async_copy_global_to_shared(biases, [i_piece], p_full, added.index(i_chunk % STAGES), pred=m_chunk)
    for i in gl.static_range(C // PART):
        tma.async_copy_global_to_shared(
            weights, [i_piece, i * PART], p_full, rings[i].index(i_chunk % STAGES), pred=m_chunk
        )


@gluon.jit
def _load_rows(
    p_x, ROWS: gl.constexpr, C: gl.constexpr, QUARTERED: gl.constexpr, TILE: gl.constexpr, WARPS: gl.constexpr,
    PART: gl.constexpr,
):  # fmt: skip
    """Load what each warp multiplies its piece with, as ROWS C / PART tiles (WARPS, PART) float32."""
    LENGTH: gl.constexpr = QUARTERS * C if QUARTERED else C
    o_piece = gl.arange(0, WARPS, gl.SliceLayout(1, TILE))
    o_k = gl.arange(0, PART, gl.SliceLayout(0, TILE))
    o_x = (o_piece % QUARTERS * C if QUARTERED else o_piece * 0)[:, None] + o_k[None, :]
    b_xs = ()
    for i_row in gl.static_range(ROWS):
        for i in gl.static_range(C // PART):
            b_xs += (gl.load(p_x + i_row * LENGTH + i * PART + o_x).to(gl.float32),)
    return b_xs


@gluon.jit
def _deviations(p_x, b_xs, ROWS: gl.constexpr, C: gl.constexpr):
    """Return 1 / sqrt(variance + EPS) (WARPS,) of each row; every warp has whole rows."""
    PARTS: gl.constexpr = len(b_xs) // ROWS
    b_rstds = ()
    for i_row in gl.static_range(ROWS):
        first = gl.load(p_x + i_row * C).to(gl.float32)  # differences from any value of the row do not cancel
        b_off = b_xs[i_row * PARTS] - first
        b_sum, b_squares = b_off, b_off * b_off
        for i in gl.static_range(1, PARTS):
            b_off = b_xs[i_row * PARTS + i] - first
            b_sum += b_off
            b_squares += b_off * b_off
        b_mean = gl.sum(b_sum, 1) / C
        b_rstds += (gl.rsqrt(gl.maximum(gl.sum(b_squares, 1) / C - b_mean * b_mean, 0.0) + EPS),)
    return b_rstds


@gluon.jit
def _multiply(
    weights, biases, rings, added, full, b_xs, b_rstds, p_residual, p_out, i_chunk, chunks, start, end,
    ROWS: gl.constexpr, C: gl.constexpr, N: gl.constexpr, NORMED: gl.constexpr, GELU: gl.constexpr,
    ADDED: gl.constexpr, QUARTERED: gl.constexpr, TILE: gl.constexpr, FLAT: gl.constexpr, STAGES: gl.constexpr,
    PROGRAMS: gl.constexpr,
):  # fmt: skip
    """Compute this program's columns of out (ROWS, N) = gelu(rstd x W^T + bias) + residual.

    Args:
        i_chunk, chunks: the program's next chunk, and the number of all that it takes in a step.
        start, end: the product's chunks, among those of all programs.

    Returns:
        the program's next chunk.
    """
    WARPS: gl.constexpr = weights.block_type.shape[0]
    PARTS: gl.constexpr = len(b_xs) // ROWS
    COLUMNS: gl.constexpr = WARPS // QUARTERS if QUARTERED else WARPS
    o_column = gl.arange(0, COLUMNS, FLAT if QUARTERED else gl.SliceLayout(1, TILE))
    i_first = gl.program_id(0) + i_chunk * PROGRAMS
    count = gl.maximum(end - i_first + PROGRAMS - 1, 0) // PROGRAMS
    for _ in range(count):
        o_n = (gl.program_id(0) + i_chunk * PROGRAMS - start) * COLUMNS + o_column
        mbarrier.wait(full.index(i_chunk % STAGES), (i_chunk // STAGES) & 1)
        b_ws = ()
        for i in gl.static_range(PARTS):
            # (WARPS, PART)
            b_ws += (rings[i].index(i_chunk % STAGES).load(TILE),)
        b_bias = added.index(i_chunk % STAGES).slice(0, WARPS).load(gl.SliceLayout(1, TILE))
        debug_barrier()
        _copy(weights, biases, rings, added, full, i_chunk + STAGES, chunks, C, STAGES, PROGRAMS)
        b_residuals = ()  # after the copy, whose fence would wait for them
        if ADDED:
            for i_row in gl.static_range(ROWS):
                b_residuals += (gl.load(p_residual + i_row * N + o_n).to(gl.float32),)
        b_sums = ()
        for i_row in gl.static_range(ROWS):
            b_sums += (b_ws[0].to(gl.float32) * b_xs[i_row * PARTS],)
        for i in gl.static_range(1, PARTS):
            b_w = b_ws[i].to(gl.float32)
            b_added = ()
            for i_row in gl.static_range(ROWS):
                b_added += (b_sums[i_row] + b_w * b_xs[i_row * PARTS + i],)
            b_sums = b_added
        for i_row in gl.static_range(ROWS):
            b_y = gl.sum(b_sums[i_row], 1)
            if NORMED:
                b_y = b_y * b_rstds[i_row]
            b_y += b_bias
            if GELU:
                b_y = 0.5 * b_y * (1.0 + _erf(b_y * SQRT_HALF))
            if QUARTERED:
                b_y = gl.convert_layout(gl.sum(gl.reshape(b_y, (COLUMNS, QUARTERS)), 1), FLAT)
            if ADDED:
                b_y += b_residuals[i_row]
            gl.store(p_out + i_row * N + o_n, b_y.to(p_out.dtype.element_ty), mask=o_n < N)
        i_chunk += 1
    return i_chunk


@gluon.jit(
    do_not_specialize=["SLOTS", "S", "polls"],
    do_not_specialize_on_alignment=["slots", "lengths"],  # columns of tables of any number of rows
)
def decode_step_kernel(
    weights, biases, x, cache, slots, lengths, residual, qkv, hidden, parts, masses, logits, state, SLOTS, S, scale,
    polls,
    LAYERS: gl.constexpr, ROWS: gl.constexpr, C: gl.constexpr, HEADS: gl.constexpr, D: gl.constexpr, V: gl.constexpr,
    SPLITS: gl.constexpr, PROGRAMS: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """Compute the logits of the token after each row's newest, and append its keys and values.

    Args:
        weights: tiles (WARPS, PART) of (pieces, C); a chunk is WARPS pieces.
        biases: parts of (pieces,) float32, a line of shared memory, which begins with those of a chunk.
        x: (ROWS, C), embeddings.
        cache: (LAYERS, 2, SLOTS, HEADS, S, D).
        slots, lengths: (ROWS,).
        residual, qkv, hidden, parts, masses: memory that programs exchange.
        logits: (ROWS, V) float32.
        state: an error, then from FLAGS on the generation that each program has reached.
        scale: D^-1/2 / log 2.
        polls: most polls of a flag at one barrier.
    """
    WARPS: gl.constexpr = weights.block_type.shape[0]
    PART: gl.constexpr = weights.block_type.shape[1]
    TILE: gl.constexpr = gl.BlockedLayout([1, 8], [1, 32], [WARPS, 1], [1, 0])  # a warp has one piece
    FLAT: gl.constexpr = gl.BlockedLayout([1], [32], [WARPS], [0])
    PAIRS: gl.constexpr = gl.BlockedLayout([2], [32], [WARPS], [0])
    HEAD: gl.constexpr = gl.BlockedLayout([1, 8], [8, 4], [WARPS, 1], [1, 0])  # four threads have one position
    POSITIONS: gl.constexpr = 8 * WARPS
    PIECES: gl.constexpr = (V + WARPS - 1) // WARPS * WARPS  # of the head; the others fill whole chunks
    LAYER: gl.constexpr = 12 * C // WARPS  # chunks: 3 C pieces, C, 4 C and 4 C
    TOTAL: gl.constexpr = LAYERS * LAYER + PIECES // WARPS
    i_program = gl.program_id(0)
    chunks = (TOTAL - i_program + PROGRAMS - 1) // PROGRAMS

    rings = ()
    for _ in gl.static_range(C // PART):
        rings += (gl.allocate_shared_memory(weights.dtype, [STAGES, WARPS, PART], weights.layout),)
    added = gl.allocate_shared_memory(biases.dtype, [STAGES, biases.block_type.shape[0]], biases.layout)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    board = gl.allocate_shared_memory(gl.float32, [ROWS * (C // PART), PART], gl.SwizzledSharedLayout(1, 1, 1, [0]))
    for i in gl.static_range(STAGES):
        mbarrier.init(full.index(i), count=1)
    fence_async_shared()  # the copy engine sees the barriers' first state
    debug_barrier()
    for i in range(STAGES):
        _copy(weights, biases, rings, added, full, i, chunks, C, STAGES, PROGRAMS)

    p_flag = state + FLAGS + i_program
    generation = gl.load(p_flag)  # this program alone writes it, and all flags are equal between launches
    i_pair, i_split = i_program // SPLITS, i_program % SPLITS
    attends = i_pair < ROWS * HEADS
    i_pair = gl.minimum(i_pair, ROWS * HEADS - 1)
    i_row, i_head = i_pair // HEADS, i_pair % HEADS
    length = gl.load(lengths + i_row)
    slot = gl.load(slots + i_row)
    cached = gl.where(attends, gl.maximum(length - 1, 0), 0)
    share = (cached + SPLITS - 1) // SPLITS
    start = gl.minimum(i_split * share, cached)
    stop = gl.minimum(start + share, cached)
    o_values = SLOTS.to(gl.int64) * HEADS * S * D
    p_k = cache + (slot.to(gl.int64) * HEADS + i_head) * S * D

    i_chunk = 0
    p_x = x
    for i_layer in range(LAYERS):
        first = i_layer * LAYER
        p_v = p_k + o_values
        prefetch(p_k + start * D, (stop - start) * D)
        prefetch(p_v + start * D, (stop - start) * D)
        b_xs = _load_rows(p_x, ROWS, C, False, TILE, WARPS, PART)
        b_rstds = _deviations(p_x, b_xs, ROWS, C)
        i_chunk = _multiply(
            weights, biases, rings, added, full, b_xs, b_rstds, p_x, qkv, i_chunk, chunks,
            first, first + LAYER // 4, ROWS, C, 3 * C, True, False, False, False, TILE, FLAT, STAGES, PROGRAMS,
        )  # fmt: skip
        arrive(p_flag, generation + 1)
        b_tiles = load_positions(p_k, p_v, start, stop, D, HEAD, POSITIONS)  # older than this step
        polls = wait(state, generation + 1, polls, PROGRAMS)

        if attends:
            attend(
                qkv, p_k, p_v, parts, masses, b_tiles, i_row, i_head, i_split, start, stop, length, scale,
                HEADS, D, SPLITS, HEAD, POSITIONS,
            )  # fmt: skip
        arrive(p_flag, generation + 2)
        polls = wait(state, generation + 2, polls, PROGRAMS)

        b_xs = join_heads(parts, masses, board, ROWS, C, D, SPLITS, TILE, PAIRS, PART)
        i_chunk = _multiply(
            weights, biases, rings, added, full, b_xs, (), p_x, residual, i_chunk, chunks,
            first + LAYER // 4, first + LAYER // 3, ROWS, C, C, False, False, True, False, TILE, FLAT, STAGES, PROGRAMS,
        )  # fmt: skip
        arrive(p_flag, generation + 3)
        polls = wait(state, generation + 3, polls, PROGRAMS)

        p_x = residual
        b_xs = _load_rows(p_x, ROWS, C, False, TILE, WARPS, PART)
        b_rstds = _deviations(p_x, b_xs, ROWS, C)
        i_chunk = _multiply(
            weights, biases, rings, added, full, b_xs, b_rstds, p_x, hidden, i_chunk, chunks,
            first + LAYER // 3, first + LAYER // 3 * 2, ROWS, C, QUARTERS * C, True, True, False, False, TILE, FLAT,
            STAGES, PROGRAMS,
        )  # fmt: skip
        arrive(p_flag, generation + 4)
        polls = wait(state, generation + 4, polls, PROGRAMS)

        b_xs = _load_rows(hidden, ROWS, C, True, TILE, WARPS, PART)
        i_chunk = _multiply(
            weights, biases, rings, added, full, b_xs, (), p_x, residual, i_chunk, chunks,
            first + LAYER // 3 * 2, first + LAYER, ROWS, C, C, False, False, True, True, TILE, FLAT, STAGES, PROGRAMS,
        )  # fmt: skip
        generation += 5
        arrive(p_flag, generation)
        polls = wait(state, generation, polls, PROGRAMS)
        p_k = p_v + o_values

    b_xs = _load_rows(p_x, ROWS, C, False, TILE, WARPS, PART)
    b_rstds = _deviations(p_x, b_xs, ROWS, C)
    _multiply(
        weights, biases, rings, added, full, b_xs, b_rstds, p_x, logits, i_chunk, chunks,
        LAYERS * LAYER, TOTAL, ROWS, C, V, True, False, False, False, TILE, FLAT, STAGES, PROGRAMS,
    )  # fmt: skip
