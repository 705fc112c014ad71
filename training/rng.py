"""Random numbers that are a pure function of seed, step and place.

A run therefore has no random state to save, a step can be captured in a CUDA graph, and R ranks draw what one would.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

WORD = 2**32 - 1
FRAMES, NOISE, PLACES, SIDES = range(4)  # what numbers are for: each use has a stream of its own


def word(seed: int, stream: int, step: int) -> int:
    """A random integer in [0, 2^32) of a seed, a stream and a step."""
    value = _mix_int(seed & WORD)
    for part in (stream, step):
        value = _mix_int(value ^ ((part + 0x9E3779B9) & WORD))
    return value


def words(seed: int, stream: int, step: Tensor, first: int, count: int) -> Tensor:
    """Random integers of consecutive places.

    Args:
        seed: of the run.
        stream: what they are for.
        step: int64 (), on the device where they are wanted.
        first, count: the places, over all ranks.

    Returns:
        int64 (count,) in [0, 2^32).
    """
    key = _mix(_mix_int(_mix_int(seed & WORD) ^ ((stream + 0x9E3779B9) & WORD)) ^ ((step + 0x9E3779B9) & WORD))
    places = torch.arange(first, first + count, device=step.device) & WORD
    return _mix(_mix(places) ^ key)


def normal(seed: int, step: Tensor, first: int, shape: torch.Size) -> Tensor:
    """Standard normal numbers for the items from number `first` on, by the Box-Muller transform.

    Args:
        seed: of the run.
        step: int64 (), on the device where they are wanted.
        first: number of the first item, over all ranks.
        shape: items first.

    Returns:
        float32 of the shape.
    """
    each = shape[1:].numel()
    pairs = words(seed, NOISE, step, 2 * first * each, 2 * shape.numel()).view(-1, 2)
    radius = ((pairs[:, 0].float() + 1) / 2**32).log().mul(-2).clamp(min=0).sqrt()
    return (radius * (pairs[:, 1].float() * (2 * math.pi / 2**32)).cos()).view(shape)


def _mix_int(x: int) -> int:
    """A bijection of 32-bit words whose output bits depend on all input bits."""
    x ^= x >> 16
    x = x * 0x7FEB352D & WORD
    x ^= x >> 15
    x = x * 0x846CA68B & WORD
    return x ^ (x >> 16)


def _mix(x: Tensor) -> Tensor:
    """Compute on int64 tensors that hold 32-bit words; overflow wraps and leaves the low word right."""
    x = x ^ (x >> 16)
    x = x * 0x7FEB352D & WORD
    x = x ^ (x >> 15)
    x = x * 0x846CA68B & WORD
    return x ^ (x >> 16)
