"""Triton kernel of sampling: one program draws one id, without a sort.

Thresholds are found by bisection on the order of float32 numbers as integers. A product never fuses with a sum here,
since the reference rounds both.

Prefixes: `b_` tiles, `o_` offsets, `m_` masks, `p_` pointers, `i_` scalars.
"""

# The language of kernels is not Python: its values have no Python types.
# mypy: ignore-errors

from __future__ import annotations

import math

import triton
import triton.language as tl

from kernels.runtime.pdl import wait_for_inputs
from kernels.sample_tokens import reference

LANES = tl.constexpr(reference.LANES)
WEIGHT_BITS = tl.constexpr(reference.WEIGHT_BITS)
SQRT_HALF_BITS = tl.constexpr(reference.SQRT_HALF_BITS)
BELOW_ONE = tl.constexpr(reference.BELOW_ONE)
LOG2_E = tl.constexpr(math.log2(math.e))
LN_2 = tl.constexpr(math.log(2))
LEAST_KEY = tl.constexpr(-0x7F800001)  # of minus infinity


@triton.jit
def _guided(p_cond, p_uncond, o_id, V, first_id, i_strength, i_divisor):
    """Return (cond + strength (cond - uncond)) / temperature, minus infinity where an id is not allowed."""
    m_id = o_id < V
    b_cond = tl.load(p_cond + o_id, mask=m_id, other=0.0).to(tl.float32)
    b_uncond = tl.load(p_uncond + o_id, mask=m_id, other=0.0).to(tl.float32)
    b_x = tl.div_rn(b_cond + i_strength * (b_cond - b_uncond), tl.zeros_like(b_cond) + i_divisor)
    b_x = tl.where(b_x == 0.0, 0.0, b_x)  # zeros of both signs are ties
    return tl.where(m_id & (o_id >= first_id), b_x, float("-inf"))


@triton.jit
def _ordered(b_x):
    """Return int32 keys in the order of float32 numbers."""
    b_bits = b_x.to(tl.int32, bitcast=True)
    return b_bits ^ ((b_bits >> 31) & 0x7FFFFFFF)


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
    BLOCK_V: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Draw argmax of x + g over the kept ids; the lowest id wins ties.

    Args:
        logits_ptr: (R, V).
        others: (N,), as the operator's arguments.
        out_ptr: (N,) int64.
    """
    wait_for_inputs(PDL)
    i_row = tl.program_id(0)
    p_cond = logits_ptr + tl.load(conditional_ptr + i_row).to(tl.int64) * V
    p_uncond = logits_ptr + tl.load(unconditional_ptr + i_row).to(tl.int64) * V
    i_step = tl.load(steps_ptr + i_row)
    i_temperature = tl.load(temperature_ptr + i_row)
    i_strength = (tl.load(guidance_ptr + i_row) - 1.0) * (tl.load(growth_ptr + i_row) * i_step.to(tl.float32) + 1.0)
    i_divisor = tl.where(i_temperature > 0.0, i_temperature, 1.0)
    i_top_k = tl.load(top_k_ptr + i_row)
    i_top_p = tl.load(top_p_ptr + i_row)
    i_least = tl.full((), LEAST_KEY, tl.int64)
    if (i_temperature > 0.0) & ((i_top_k > 0) | (i_top_p < 1.0)):
        # (BLOCK_V,) the whole row in registers, since each step of a bisection reads it
        b_x = _guided(p_cond, p_uncond, tl.arange(0, BLOCK_V), V, first_id, i_strength, i_divisor)
        b_key = _ordered(b_x)
        i_most = tl.max(b_key, axis=0).to(tl.int64)
        if (i_top_k > 0) & (i_top_k < V):
            # the largest key that at least k keys reach
            i_high = i_most
            while i_least < i_high:
                i_middle = i_least + ((i_high - i_least + 1) >> 1)
                i_count = tl.sum((b_key >= i_middle.to(tl.int32)).to(tl.int32), axis=0)
                i_least = tl.where(i_count >= i_top_k, i_middle, i_least)
                i_high = tl.where(i_count == i_top_k, i_middle, tl.where(i_count > i_top_k, i_high, i_middle - 1))
        if i_top_p < 1.0:
            b_weight = tl.where(b_key >= i_least.to(tl.int32), _fixed_point_exp(b_x - tl.max(b_x, axis=0)), 0)
            i_mass = tl.sum(b_weight.to(tl.int64), axis=0)
            i_allowed = (i_top_p.to(tl.float64) * i_mass.to(tl.float64)).to(tl.int64)
            # the least key above which at most p of the mass remains
            i_high = i_most
            while i_least < i_high:
                i_middle = i_least + ((i_high - i_least) >> 1)
                i_above = tl.sum(tl.where(b_key > i_middle.to(tl.int32), b_weight, 0).to(tl.int64), axis=0)
                i_high = tl.where(i_above <= i_allowed, i_middle, i_high)
                i_least = tl.where(i_above <= i_allowed, i_least, i_middle + 1)
    # (LANES,) running best of each lane
    i_seed = tl.load(seeds_ptr + i_row)
    o_lane = tl.arange(0, LANES)
    b_best = tl.full((LANES,), float("-inf"), tl.float32)
    b_id = o_lane
    for i_tile in range(tl.cdiv(V, 4 * LANES)):
        o_block = (o_lane + i_tile * LANES).to(tl.uint32)
        o_step = tl.zeros_like(o_block) + i_step.to(tl.uint32)
        o_zero = tl.zeros_like(o_block)
        b_words = tl.philox(i_seed, o_block, o_step, o_zero, o_zero)
        for i_word in tl.static_range(4):
            o_id = o_lane + (i_tile * 4 + i_word) * LANES
            b_x = _guided(p_cond, p_uncond, o_id, V, first_id, i_strength, i_divisor)
            b_noisy = tl.where(i_temperature > 0.0, b_x + _gumbel(b_words[i_word]), b_x)
            m_better = (_ordered(b_x) >= i_least.to(tl.int32)) & (b_noisy > b_best)  # strictly: the lowest id wins
            b_best = tl.where(m_better, b_noisy, b_best)
            b_id = tl.where(m_better, o_id, b_id)
    i_best = tl.max(b_best, axis=0)
    tl.store(out_ptr + i_row, tl.min(tl.where(b_best == i_best, b_id, V), axis=0).to(tl.int64))
