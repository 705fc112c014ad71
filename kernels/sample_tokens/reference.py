"""The definition of sampling: plain torch, with the bits of the kernel.

Every step rounds once and in the same order as in the kernel: products and sums are separate, logarithm and exponential
are written out, and probabilities are summed as integers. Equal logits therefore give equal ids on every device.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

PHILOX_ROUNDS = 10
PHILOX_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
PHILOX_KEY_STEPS = 0x9E3779B9, 0xBB67AE85
LANES = 1024  # ids that take the same word of consecutive Philox blocks
WORD = 0xFFFFFFFF
WEIGHT_BITS = 30  # of the likeliest token's weight, the most that int32 holds
SQRT_HALF_BITS = 0x3F3504F3  # of sqrt(1 / 2) in float32
BELOW_ONE = 1 - 2.0**-24  # the largest float32 below one


class SampleArgs(NamedTuple):
    """The arguments of the operator; all tensors but the logits have shape (N,).

    On a GPU the kernel just before may write the logits alone: the others are read while it runs.

    Args:
        logits (Tensor): shape (R, V), any float dtype, finite.
        conditional (Tensor): int32, the row of `logits` that each id is drawn from.
        unconditional (Tensor): int32, the row that guides it; its own row where nothing does.
        steps (Tensor): int32, tokens drawn before this one.
        seeds (Tensor): int64.
        temperature (Tensor): float32; 0 takes the likeliest token.
        top_k (Tensor): int32; 0 keeps all.
        top_p (Tensor): float32, in (0, 1]; 1 keeps all.
        guidance (Tensor): float32; 1 is none.
        growth (Tensor): float32; guidance minus one grows by this share of itself at each step.
        first_id (int): ids below it are never drawn.
    """

    logits: Tensor
    conditional: Tensor
    unconditional: Tensor
    steps: Tensor
    seeds: Tensor
    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    guidance: Tensor
    growth: Tensor
    first_id: int = 0


def sample_tokens(args: SampleArgs) -> Tensor:
    """Draw one id a row by Gumbel-max: argmax of x + g over the kept ids; the lowest id wins ties.

    x is cond + (s - 1) (1 + growth step) (cond - uncond), times the inverse of the temperature. Top-k keeps the k
    largest with all that equal the last. Top-p, after it, keeps an id if the ids above it hold at most p of the mass.
    g is standard Gumbel noise by Philox-4x32-10, keyed by the row's seed, at the counter (id, step).

    Returns:
        Tensor: int64, shape (N,).
    """
    x = guided(args)
    ids = torch.arange(x.shape[1], device=x.device)
    x = x.masked_fill(ids < args.first_id, -math.inf)
    noisy = torch.where(args.temperature[:, None] > 0, x + gumbel(args.seeds, args.steps, len(ids)), x)
    return noisy.masked_fill(x < threshold(x, args.top_k, args.top_p), -math.inf).argmax(-1)


def guided(args: SampleArgs) -> Tensor:
    """Return the guided logits over the temperature, float32, shape (N, V)."""
    cond, uncond = (args.logits[rows.long()].float() for rows in (args.conditional, args.unconditional))
    strength = (args.guidance - 1) * (args.growth * args.steps + 1)
    x = cond + strength[:, None] * (cond - uncond)
    return x * (1 / torch.where(args.temperature > 0, args.temperature, 1.0))[:, None]


def threshold(x: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """Return the least value that top-k and then top-p keep, shape (N, 1).

    Args:
        x (Tensor): shape (N, V), float32.
        top_k, top_p (Tensor): shape (N,).
    """
    ordered = x.sort(-1, descending=True).values
    last = torch.where(top_k > 0, top_k, x.shape[1]).clamp(max=x.shape[1]).long()[:, None] - 1
    weights = fixed_point_exp(ordered - ordered[:, :1]).masked_fill(ordered < ordered.gather(1, last), 0)
    mass = weights.cumsum(-1)
    allowed = (top_p.double() * mass[:, -1]).long()[:, None]
    kept = (mass - weights <= allowed).sum(-1, keepdim=True)
    return ordered.gather(1, torch.minimum(kept - 1, last))


def gumbel(seeds: Tensor, steps: Tensor, count: int) -> Tensor:
    """Return standard Gumbel noise of the ids below `count`, float32, shape (N, count).

    Id i takes word i // LANES % 4 of the block at i // (4 LANES) LANES + i % LANES.

    Args:
        seeds (Tensor): int64, shape (N,).
        steps (Tensor): shape (N,).
        count (int): V.
    """
    lanes = min(LANES, count)  # a small vocabulary leaves the other lanes out
    tiles = -(-count // (4 * LANES))
    blocks = torch.arange(tiles * lanes, device=seeds.device).view(tiles, 1, lanes)
    words = philox(seeds.view(-1, 1, 1, 1), blocks, steps.view(-1, 1, 1, 1))
    bits = torch.cat(words, dim=2).flatten(1)[:, :count]
    v = (bits.float() * 2.0**-32 + 2.0**-33).clamp(max=BELOW_ONE)
    exponential = -log(1 - v, -v)
    return -log(exponential, exponential - 1)


def philox(seeds: Tensor, block: Tensor, step: Tensor) -> tuple[Tensor, ...]:
    """Return the four words of Philox-4x32-10 at the counter (block, step, 0, 0), as int64.

    Args:
        seeds (Tensor): int64; the halves are the key.
        block, step (Tensor): int64 below 2**32, of shapes that broadcast with the seeds.
    """
    low_key, high_key = seeds & WORD, seeds >> 32 & WORD
    block, step, seeds = torch.broadcast_tensors(block.long(), step.long(), seeds)
    words = (block, step, torch.zeros_like(block), torch.zeros_like(block))
    for _ in range(PHILOX_ROUNDS):
        # int64 products wrap, which leaves their 64 bits as they are
        even, odd = words[0] * PHILOX_MULTIPLIERS[0], words[2] * PHILOX_MULTIPLIERS[1]
        words = (
            odd >> 32 & WORD ^ words[1] ^ low_key,
            odd & WORD,
            even >> 32 & WORD ^ words[3] ^ high_key,
            even & WORD,
        )
        low_key, high_key = low_key + PHILOX_KEY_STEPS[0] & WORD, high_key + PHILOX_KEY_STEPS[1] & WORD
    return words


def log(w: Tensor, less_one: Tensor) -> Tensor:
    """Return log(w) of positive float32 numbers, where w - 1 is known to more digits than w near one.

    With w = m 2^e, m in [sqrt(1/2), sqrt(2)), and s = (m - 1) / (m + 1), log m = 2 (s + s^3/3 + s^5/5 + ...).
    """
    bits = w.view(torch.int32)
    exponent = bits - SQRT_HALF_BITS >> 23
    mantissa = (bits - (exponent << 23)).view(torch.float32)
    f = torch.where(exponent == 0, less_one, mantissa - 1)
    s = f / (f + 2)
    square = s * s
    series = square * (1 / 9) + 1 / 7
    for odd in (5, 3, 1):
        series = series * square + 1 / odd
    return 2 * s * series + exponent.float() * math.log(2)


def fixed_point_exp(x: Tensor) -> Tensor:
    """Return exp(x) for x <= 0 in units of 2**-WEIGHT_BITS, rounded down, as int64."""
    y = (x * math.log2(math.e)).clamp(min=-64.0)
    whole = (y + 0.5).floor()
    t = (y - whole) * math.log(2)
    power = t * (1 / 720) + 1 / 120
    for inverse in (1 / 24, 1 / 6, 1 / 2, 1.0, 1.0):
        power = power * t + inverse
    scale = (whole.int() + 127 + WEIGHT_BITS << 23).view(torch.float32)
    return (power * scale).long()
