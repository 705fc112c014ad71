"""Triton kernel of sampling: one program draws one id, without a sort.

Thresholds are found by bisection on the order of float32 numbers as integers, which makes them exact. A product never
fuses with a sum here, since the reference rounds both.

Prefixes: `b_` tiles, `o_` offsets, `m_` masks, `p_` pointers, `i_` scalars.
"""

# The language of kernels is not Python: its values have no Python types.
# mypy: ignore-errors

from __future__ import annotations

import math

import triton
import triton.language as tl

from kernels.runtime.pdl import start_next, wait_for_inputs
from kernels.sample_tokens import reference

LANES = tl.constexpr(reference.LANES)
WEIGHT_BITS = tl.constexpr(reference.WEIGHT_BITS)
SQRT_HALF_BITS = tl.constexpr(reference.SQRT_HALF_BITS)
BELOW_ONE = tl.constexpr(reference.BELOW_ONE)
LOG2_E = tl.constexpr(math.log2(math.e))
LN_2 = tl.constexpr(math.log(2))
LEAST_KEY = tl.constexpr(-0x7F800001)  # of minus infinity


@triton.jit
def _guided(p_cond, p_uncond, o_id, V, first_id, i_strength, i_sharpness):
    """Return (cond + strength (cond - uncond)) sharpness, minus infinity where an id is not allowed."""
    m_id = o_id < V
    b_cond = tl.load(p_cond + o_id, mask=m_id, other=0.0).to(tl.float32)
    b_uncond = tl.load(p_uncond + o_id, mask=m_id, other=0.0).to(tl.float32)
    b_x = (b_cond + i_strength * (b_cond - b_uncond)) * i_sharpness
    b_x = tl.where(b_x == 0.0, 0.0, b_x)  # zeros of both signs are ties
    return tl.where(m_id & (o_id >= first_id), b_x, float("-inf"))


@triton.jit
def _ordered(b_x):
    """Return int32 keys in the order of float32 numbers."""
    b_bits = b_x.to(tl.int32, bitcast=True)
    return b_bits ^ ((b_bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _number(i_key):
    """Return the float32 number of a key."""
    i_bits = i_key.to(tl.int32)
    return (i_bits ^ ((i_bits >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def _between(i_low, i_high, i_turn):
    """Return a key in (low, high]: that of the mean of their numbers, every fourth turn the middle of the keys.

    Means separate numbers of one size soonest; middles end the search among numbers of any size.
    """
    i_key = _ordered(0.5 * _number(i_low) + 0.5 * _number(i_high)).to(tl.int64)
    i_middle = i_low + ((i_high - i_low + 1) >> 1)
    return tl.where(i_turn % 4 == 3, i_middle, tl.minimum(tl.maximum(i_key, i_low + 1), i_high))


@triton.jit
def _add_both(b_mass, b_count, b_other_mass, b_other_count):
    return b_mass + b_other_mass, b_count + b_other_count


@triton.jit
def _fixed_point_exp(b_x):
    """Return exp(x) for x <= 0 in units of 2^-WEIGHT_BITS, rounded down."""
    b_y = tl.maximum(b_x * LOG2_E, -64.0)
    b_whole = tl.floor(b_y + 0.5)
    b_t = (b_y - b_whole) * LN_2
    b_power = b_t * (1 / 720) + 1 / 120
    b_power = b_power * b_t + 1 / 24
    b_power = b_power * b_t + 1 / 6
    b_power = b_power * b_t + 1 / 2
    b_power = b_power * b_t + 1.0
    b_power = b_power * b_t + 1.0
    b_scale = ((b_whole.to(tl.int32) + (127 + WEIGHT_BITS)) << 23).to(tl.float32, bitcast=True)
    return (b_power * b_scale).to(tl.int32)


@triton.jit
def _log(b_w, b_less_one):
    """Return log(w) of positive numbers by 2 (s + s^3/3 + s^5/5 + ...), s = (m - 1) / (m + 1)."""
    b_bits = b_w.to(tl.int32, bitcast=True)
    b_exponent = (b_bits - SQRT_HALF_BITS) >> 23
    b_mantissa = (b_bits - (b_exponent << 23)).to(tl.float32, bitcast=True)
    b_f = tl.where(b_exponent == 0, b_less_one, b_mantissa - 1.0)
    b_s = tl.div_rn(b_f, b_f + 2.0)
    b_square = b_s * b_s
    b_series = b_square * (1 / 9) + 1 / 7
    b_series = b_series * b_square + 1 / 5
    b_series = b_series * b_square + 1 / 3
    b_series = b_series * b_square + 1.0
    return 2.0 * b_s * b_series + b_exponent.to(tl.float32) * LN_2


@triton.jit
def _gumbel(b_bits):
    """Return standard Gumbel noise of uint32 bits."""
    b_v = tl.minimum(b_bits.to(tl.float32) * (2.0**-32) + (2.0**-33), BELOW_ONE)
    b_exponential = -_log(1.0 - b_v, -b_v)
    return -_log(b_exponential, b_exponential - 1.0)


@triton.jit(do_not_specialize=["V", "first_id"])
def sample_tokens_kernel(
    logits_ptr, conditional_ptr, unconditional_ptr, steps_ptr, seeds_ptr, temperature_ptr, top_k_ptr, top_p_ptr,
    guidance_ptr, growth_ptr, out_ptr, V, first_id,
    SEGMENTS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Draw argmax of x + g over the kept ids; the lowest id wins ties.

    The noise is drawn before the logits arrive. It and the row stay in registers, since each turn of a search reads it.

    Args:
        logits_ptr: (R, V).
        others: (N,), as the operator's arguments; complete before the kernel that precedes this one starts.
        out_ptr: (N,) int64.
        SEGMENTS: of LANES ids, which hold V.
    """
    start_next(PDL)
    i_row = tl.program_id(0)
    o_lane = tl.arange(0, LANES)
    i_conditional = tl.load(conditional_ptr + i_row).to(tl.int64)
    i_unconditional = tl.load(unconditional_ptr + i_row).to(tl.int64)
    i_step = tl.load(steps_ptr + i_row, cache_modifier=".cg")
    i_temperature = tl.load(temperature_ptr + i_row)
    i_strength = (tl.load(guidance_ptr + i_row) - 1.0) * (tl.load(growth_ptr + i_row) * i_step.to(tl.float32) + 1.0)
    i_sharpness = tl.div_rn(1.0, tl.where(i_temperature > 0.0, i_temperature, 1.0))
    i_top_k = tl.load(top_k_ptr + i_row)
    i_top_p = tl.load(top_p_ptr + i_row)
    i_seed = tl.load(seeds_ptr + i_row)
    b_noises = ()
    for i_tile in tl.static_range((SEGMENTS + 3) // 4):
        o_block = (o_lane + i_tile * LANES).to(tl.uint32)
        o_zero = tl.zeros_like(o_block)
        b_words = tl.philox(i_seed, o_block, o_zero + i_step.to(tl.uint32), o_zero, o_zero)
        for i_word in tl.static_range(min(4, SEGMENTS - 4 * i_tile)):
            b_noises += (_gumbel(b_words[i_word]),)
    wait_for_inputs(PDL)
    p_cond, p_uncond = logits_ptr + i_conditional * V, logits_ptr + i_unconditional * V
    # (LANES,) each
    b_xs = ()
    for i in tl.static_range(SEGMENTS):
        b_xs += (_guided(p_cond, p_uncond, o_lane + i * LANES, V, first_id, i_strength, i_sharpness),)
    i_least = tl.full((), LEAST_KEY, tl.int64)
    if (i_temperature > 0.0) & ((i_top_k > 0) | (i_top_p < 1.0)):
        b_most, b_low = _ordered(b_xs[0]), tl.full((LANES,), 0x7FFFFFFF, tl.int32)
        for i in tl.static_range(SEGMENTS):
            o_id = o_lane + i * LANES
            b_most = tl.maximum(b_most, _ordered(b_xs[i]))
            b_low = tl.minimum(b_low, tl.where((o_id < V) & (o_id >= first_id), _ordered(b_xs[i]), 0x7FFFFFFF))
        i_most = tl.max(b_most, axis=0).to(tl.int64)
        i_least = tl.min(b_low, axis=0).to(tl.int64)
        if (i_top_k > 0) & (i_top_k < V - first_id):
            i_high = i_most
            i_turn = 0
            while i_least < i_high:  # the largest key that at least k keys reach
                i_key = _between(i_least, i_high, i_turn)
                b_count = tl.zeros((LANES,), tl.int32)
                for i in tl.static_range(SEGMENTS):
                    b_count += (_ordered(b_xs[i]) >= i_key.to(tl.int32)).to(tl.int32)
                i_count = tl.sum(b_count, axis=0)
                i_least = tl.where(i_count >= i_top_k, i_key, i_least)
                i_high = tl.where(i_count == i_top_k, i_key, tl.where(i_count > i_top_k, i_high, i_key - 1))
                i_turn += 1
        if i_top_p < 1.0:
            # the largest key such that it and larger ones have more than p of the mass: that of the first id to cross
            largest = tl.max(b_xs[0], axis=0)
            for i in tl.static_range(1, SEGMENTS):
                largest = tl.maximum(largest, tl.max(b_xs[i], axis=0))
            b_weights = ()
            b_mass, b_count = tl.zeros((LANES,), tl.int64), tl.zeros((LANES,), tl.int32)
            for i in tl.static_range(SEGMENTS):
                m_key = _ordered(b_xs[i]) >= i_least.to(tl.int32)
                b_weights += (tl.where(m_key, _fixed_point_exp(b_xs[i] - largest), 0),)
                b_mass += b_weights[i].to(tl.int64)
                b_count += m_key.to(tl.int32)
            i_mass, i_low_count = tl.reduce((b_mass, b_count), 0, _add_both)
            i_allowed = (i_top_p.to(tl.float64) * i_mass.to(tl.float64)).to(tl.int64)
            i_high = i_most
            i_high_count = i_low_count * 0
            i_turn = 0
            while (i_least < i_high) & (i_low_count - i_high_count > 1):
                i_key = _between(i_least, i_high, i_turn)
                b_mass, b_count = tl.zeros((LANES,), tl.int64), tl.zeros((LANES,), tl.int32)
                for i in tl.static_range(SEGMENTS):
                    m_key = _ordered(b_xs[i]) >= i_key.to(tl.int32)
                    b_mass += tl.where(m_key, b_weights[i], 0).to(tl.int64)
                    b_count += m_key.to(tl.int32)
                i_mass, i_count = tl.reduce((b_mass, b_count), 0, _add_both)
                i_over = i_mass > i_allowed
                i_least = tl.where(i_over, i_key, i_least)
                i_low_count = tl.where(i_over, i_count, i_low_count)
                i_high = tl.where(i_over, i_high, i_key - 1)
                i_high_count = tl.where(i_over, i_high_count, i_count)
                i_turn += 1
    # (LANES,) the best of each lane
    b_best = tl.full((LANES,), float("-inf"), tl.float32)
    b_id = o_lane
    for i in tl.static_range(SEGMENTS):
        b_noisy = tl.where(i_temperature > 0.0, b_xs[i] + b_noises[i], b_xs[i])
        m_better = (_ordered(b_xs[i]) >= i_least.to(tl.int32)) & (b_noisy > b_best)  # strictly: the lowest id wins
        b_best = tl.where(m_better, b_noisy, b_best)
        b_id = tl.where(m_better, o_lane + i * LANES, b_id)
    i_best = tl.max(b_best, axis=0)
    tl.store(out_ptr + i_row, tl.min(tl.where(b_best == i_best, b_id, V), axis=0).to(tl.int64))
