"""The definition of attention of one new position a row over its cached keys and values, on any device."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

FLOAT8 = torch.float8_e4m3fn
FLOAT8_MAX = 448.0
MIN_COUNTERS = 1024


class DecodeArgs(NamedTuple):
    """The arguments of the operator.

    Args:
        qkv (Tensor): shape (R, 3, H, D), the query, key and value of each row's new position.
        cache (Tensor): shape (2, slots, H, S, D), keys and values; dtype of `qkv` or float8_e4m3fn. The new key and
            value are written at position length - 1, rounded to its dtype, and clamped to +-448 for float8.
        slots (Tensor): shape (R,), int32, each row's slot; rows of positive length have different slots.
        lengths (Tensor): shape (R,), int32, at most S; positions of a row with the new one. A row of length 0 writes
            nothing and returns zeros. On a GPU the kernel just before may not write `slots`, `lengths` or earlier
            positions of these rows: they are read while it runs. What writes them is complete before that one starts.
        counters (Tensor): int32 zeros, MIN_COUNTERS of them, left zero; saves their allocation in calls that need no
            more. Calls that may run at the same time need counters of their own.
    """

    qkv: Tensor
    cache: Tensor
    slots: Tensor
    lengths: Tensor
    counters: Tensor | None = None


def to_cache_dtype(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Round keys or values to the dtype of a cache."""
    return (x.clamp(-FLOAT8_MAX, FLOAT8_MAX) if dtype == FLOAT8 else x).to(dtype)


def indexable(cache: Tensor) -> Tensor:
    """Return a cache for indexing, which torch lacks for float8."""
    return cache.view(torch.uint8) if cache.dtype == FLOAT8 else cache


def append(args: DecodeArgs) -> None:
    """Write the new keys and values into the cache."""
    qkv, cache, slots, lengths, *_ = args
    active = lengths > 0
    # a row of length 0 repeats the write of an active row; without one, row 0 writes back what it read
    source = torch.where(active, torch.arange(len(lengths), device=lengths.device), active.int().argmax())
    slot, position = slots.long()[source], (lengths.long()[source] - 1).clamp_min(0)
    for half, new in zip(indexable(cache), qkv.unbind(1)[1:], strict=True):
        old = half[slot, :, position]
        rounded = indexable(to_cache_dtype(new[source], cache.dtype))
        half[slot, :, position] = torch.where(active[source, None, None], rounded, old)


def decode_attention(args: DecodeArgs) -> Tensor:
    """Append each row's key and value to its slot, and attend with scale 1 / sqrt(D) over the row's positions.

    Returns:
        Tensor: shape (R, H, D), dtype of `qkv`.
    """
    qkv, cache, slots, lengths, *_ = args
    append(args)
    dtype = torch.float64 if qkv.dtype == torch.float64 else torch.float32
    keys, values = (half[slots.long()].view(cache.dtype).to(dtype) for half in indexable(cache))  # (R, H, S, D)
    logits = torch.einsum("rhd,rhsd->rhs", qkv[:, 0].to(dtype), keys) * qkv.shape[-1] ** -0.5
    outside = torch.arange(cache.shape[3], device=cache.device) >= lengths[:, None, None]
    # masked values count as zeros, since unwritten memory may hold NaN
    weights = logits.masked_fill(outside, -torch.inf).softmax(-1).masked_fill(outside, 0)
    values = values.masked_fill(outside[..., None], 0)
    return torch.einsum("rhs,rhsd->rhd", weights, values).to(qkv.dtype)
