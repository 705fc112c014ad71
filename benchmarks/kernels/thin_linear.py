"""Products of few rows against separate library calls: LayerNorm, linear layer, GELU, residual."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

import kernels
from benchmarks.kernels.operation import Case, Inputs, Make, Operation, delayed, normal, uniform
from kernels.thin_linear.op import PART_COLUMNS
from kernels.thin_linear.reference import moments_of

SHAPES = {"qkv": (4608, 1536), "out": (1536, 1536), "up": (6144, 1536), "down": (1536, 6144)}  # of the 650M model


@delayed
def _make(
    generator: torch.Generator, rows: int, columns: int, inner: int, normed: bool = False, gelu: bool = False,
    added: bool = False, int8: bool = False, logits: bool = False, moments: bool = False,
) -> Inputs:  # fmt: skip
    weight = normal(generator, columns, inner) * inner**-0.5
    if normed:  # as `fold` leaves it
        weight = weight - weight.mean(1, keepdim=True)
    weight, scale = kernels.quantize_rows(weight) if int8 else (weight, None)
    x = (normal(generator, rows, inner) + 0.5).bfloat16().float()  # moments are those of x in any dtype under test
    return {
        "x": x,
        "weight": weight,
        "bias": uniform(generator, columns),
        "residual": normal(generator, rows, columns) if added else None,
        "scale": scale,
        "normed": normed,
        "gelu": gelu,
        "full_precision": logits,
        "moments": moments_of(x, inner // PART_COLUMNS) if moments else None,
    }


def _of(kind: str, rows: int, moments: bool = False) -> Make:
    normed = kind in ("qkv", "up")
    return _make(rows, *SHAPES[kind], normed, kind == "up", not normed, moments=moments and normed)


def separate(
    x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None, scale: Tensor | None,
    normed: bool, gelu: bool, full_precision: bool, moments: Tensor | None,
) -> Tensor:  # fmt: skip
    """Run separate library calls, which round in between."""
    if normed:
        x = F.layer_norm(x, x.shape[-1:])
    y = F.linear(x, weight.to(x.dtype), None if scale is not None else bias.to(x.dtype))
    if scale is not None:
        y = (y * scale + bias).to(x.dtype)
    y = F.gelu(y) if gelu else y
    return y if residual is None else y + residual


OPERATION = Operation(
    operator=kernels.thin_linear,
    checked=(
        Case("1 row, 40 columns of 96", _make(1, 40, 96, added=True)),
        Case("5 rows, 100 columns of 1,024, norm, gelu", _make(5, 100, 1024, normed=True, gelu=True)),
        Case("13 rows, 72 columns of 4,096", _make(13, 72, 4096, added=True)),
        Case("33 rows, 200 columns of 208, norm, logits", _make(33, 200, 208, normed=True, logits=True)),
        Case("128 rows, 1,536 columns of 6,144", _make(128, 1536, 6144, added=True)),
        Case("29 rows, moments, gelu", _make(29, 6144, 1536, normed=True, gelu=True, moments=True)),
        Case("50 rows, moments", _make(50, 4608, 1536, normed=True, moments=True)),
        Case("100 rows, moments, logits", _make(100, 9193, 1536, normed=True, logits=True, moments=True)),
        Case("20 rows, moments, int8", _make(20, 4608, 1536, normed=True, int8=True, moments=True)),
        Case("2 rows, int8", _make(2, 4608, 1536, normed=True, int8=True)),
        Case("2 rows, 1,536 columns of 6,144", _make(2, 1536, 6144, added=True)),
    ),
    timed=(
        *(Case(f"{kind}, {rows} rows", _of(kind, rows)) for rows in (2, 16, 32, 128) for kind in SHAPES),
        *(Case(f"{kind}, 32 rows, moments", _of(kind, 32, moments=True)) for kind in ("qkv", "up")),
    ),
    baselines={"separate calls": separate},
    full_precision=frozenset({"bias", "scale", "moments"}),
    dtypes=("bfloat16", "float16"),
)
