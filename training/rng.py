"""Random numbers that are a pure function of seed, step and place.

A run therefore has no random state to save, a step can be captured in a CUDA graph, and R ranks draw what one would.
"""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import Tensor

MAX_UINT32 = 2**32 - 1
FRAMES, NOISE, PLACES, RESOLUTIONS, LABELS, TIMESTEPS = range(6)  # each use of random numbers has a stream of its own
Word = TypeVar("Word", int, Tensor)


def random_int(seed: int, stream: int, step: int) -> int:
    """Return a random integer in [0, 2^32) of a seed, a stream and a step."""
    return _mix(_stream_key(seed, stream) ^ (step + 0x9E3779B9 & MAX_UINT32))


def random_ints(seed: int, stream: int, step: Tensor, first: int, count: int) -> Tensor:
    """Return random integers of consecutive places.

    Args:
        seed: of the run.
        stream: what they are for.
        step: int64 (), on the device where they are wanted.
        first, count: the places, over all ranks.

    Returns:
        int64 (count,) in [0, 2^32).
    """
    key = _mix(_stream_key(seed, stream) ^ (step + 0x9E3779B9 & MAX_UINT32))
    places = torch.arange(first, first + count, device=step.device) & MAX_UINT32
    return _mix(_mix(places) ^ key)


def random_normal(seed: int, step: Tensor, first: int, shape: torch.Size) -> Tensor:
    """Return standard normal numbers for the items from number `first` on, by the Box-Muller transform.

    Args:
        seed: of the run.
        step: int64 (), on the device where they are wanted.
        first: number of the first item, over all ranks.
        shape: items first.

    Returns:
        float32 of the shape.
    """
    each = shape[1:].numel()
    pairs = random_ints(seed, NOISE, step, 2 * first * each, 2 * shape.numel()).view(-1, 2)
    radius = ((pairs[:, 0].float() + 1) / 2**32).log().mul(-2).clamp(min=0).sqrt()
    return (radius * (pairs[:, 1].float() * (2 * math.pi / 2**32)).cos()).view(shape)


def _stream_key(seed: int, stream: int) -> int:
    return _mix(_mix(seed & MAX_UINT32) ^ (stream + 0x9E3779B9 & MAX_UINT32))


def _mix(x: Word) -> Word:
    """Mix a 32-bit word: a bijection whose output bits depend on all input bits; int64 overflow keeps the low word."""
    x = x ^ (x >> 16)
    x = x * 0x7FEB352D & MAX_UINT32
    x = x ^ (x >> 15)
    x = x * 0x846CA68B & MAX_UINT32
    return x ^ (x >> 16)
