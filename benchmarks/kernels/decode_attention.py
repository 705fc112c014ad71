"""Decode attention against torch's attention over a cache of equal lengths, which needs no mask."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

import kernels
from benchmarks.kernels.operation import Case, Inputs, Operation, delayed, normal

LENGTH = 513  # the mean of an image of 1,024 tokens


@delayed
def _make(
    generator: torch.Generator, lengths: tuple[int, ...], heads: int, dim: int, positions: int, float8: bool = False
) -> Inputs:
    rows, device = len(lengths), generator.device
    cache = normal(generator, 2, rows + 1, heads, positions, dim)
    qkv = normal(generator, rows, 3, heads, dim)
    if float8:  # the cache rounds new keys and values, which the float64 definition does not
        qkv[:, 1:] = qkv[:, 1:].to(torch.float8_e4m3fn)
    order = torch.randperm(rows + 1, generator=generator, device=device)[:rows]
    return {
        "qkv": qkv,
        "cache": cache.to(torch.float8_e4m3fn) if float8 else cache,
        "slots": order.int(),
        "lengths": torch.tensor(lengths, dtype=torch.int32, device=device),
    }


@delayed
def _full(generator: torch.Generator, rows: int, float8: bool = False) -> Inputs:
    inputs = _make((LENGTH,) * rows, 16, 96, LENGTH, float8)(generator)
    return inputs | {"cache": inputs["cache"][:, :rows].contiguous(), "slots": torch.arange(rows, device="cuda").int()}


def whole_cache(qkv: Tensor, cache: Tensor, slots: Tensor, lengths: Tensor) -> Tensor:
    """Run torch's attention over every position of every slot, in order."""
    query, *new = qkv.unbind(1)
    for half, one in zip(cache, new, strict=True):
        half[:, :, -1] = one
    keys, values = cache.to(qkv.dtype)
    return F.scaled_dot_product_attention(query[:, :, None], keys, values)[:, :, 0]


OPERATION = Operation(
    operator=kernels.decode_attention,
    checked=(
        Case("lengths 0 to 300, head 96", _make((1, 300, 0, 65, 64, 2, 129), 4, 96, 301)),
        Case("head 64", _make((40, 7, 1000), 2, 64, 1000)),
        Case("head 128", _make((513,), 3, 128, 513)),
        Case("head 72", _make((100, 31), 2, 72, 128)),
        Case("float8", _make((1, 300, 0, 65, 64, 513), 4, 96, 513, float8=True)),
        Case("40 rows", _make(tuple(range(1, 513, 13)), 16, 96, 513)),
    ),
    timed=(
        *(Case(f"{rows} rows of 513", _full(rows)) for rows in (2, 16, 32, 128)),
        *(Case(f"{rows} rows of 513, float8", _full(rows, float8=True)) for rows in (32, 128)),
    ),
    baselines={"torch": whole_cache},
    dtypes=("bfloat16", "float16"),
)
