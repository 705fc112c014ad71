"""LayerNorm and its divisor against torch's calls."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.kernels.operation import Case, Inputs, Make, Operation, delayed, normal, on_grids, uniform
from kernels.norm import inverse_deviation, layer_norm, reference


@delayed
def _rows(generator: torch.Generator, *shape: int, offset: float = 0.0) -> Inputs:
    return {"x": normal(generator, *shape) + offset}


@delayed
def _weighed(generator: torch.Generator, *shape: int, offset: float = 0.0, biased: bool = True) -> Inputs:
    return {
        "x": normal(generator, *shape) + offset,
        "weight": uniform(generator, shape[-1], low=0.5, high=1.5),
        "bias": normal(generator, shape[-1]) if biased else None,
    }


def library(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Run torch's kernel."""
    return F.layer_norm(x, x.shape[-1:], weight.to(x.dtype), None if bias is None else bias.to(x.dtype), reference.EPS)


def _timed(make: Callable[[int, int], Make]) -> tuple[Case, ...]:
    on_demo = Case("demo image 128, B 16", make(4096, 256))
    return *on_grids(lambda *grid: make(math.prod(grid), 512)), on_demo


LAYER_NORM = Operation(
    operator=layer_norm,
    checked=(
        Case("one row of one", _weighed(1, 1)),
        Case("7 rows of 72", _weighed(7, 72)),
        Case("33 rows of 683, no bias", _weighed(33, 683, biased=False)),
        Case("3x5 rows of 1024 around 30", _weighed(3, 5, 1024, offset=30.0)),
        Case("4,097 rows of 512", _weighed(4097, 512)),
        Case("300 rows of 256", _weighed(300, 256)),
    ),
    timed=_timed(_weighed),
    baselines={"F.layer_norm": library},
    full_precision=frozenset({"weight", "bias"}),
)

DEVIATION = Operation(
    operator=inverse_deviation,
    checked=(
        Case("one row of one", _rows(1, 1)),
        Case("7 rows of 72", _rows(7, 72)),
        Case("3x5 rows of 1024 around 30", _rows(3, 5, 1024, offset=30.0)),
        Case("4,097 rows of 512", _rows(4097, 512)),
        Case("300 rows of 256", _rows(300, 256)),
    ),
    timed=_timed(_rows),
    backends=("reference",),
)
