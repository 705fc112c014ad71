"""The fused products against torch's LayerNorm, cuBLAS and elementwise kernels."""

from __future__ import annotations

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.kernels.operation import Case, Inputs, Operation, delayed, normal, on_grids, uniform
from kernels.linear import attention_inputs, fold, gated_linear, residual_linear
from kernels.spatial_attention import RopeTable, rope_table
from kernels.spatial_attention.reference import cosine

EPS = 1e-5
FULL = frozenset({"rstd", "shift", "cos", "sin", "q_scale", "k_scale"})
PRODUCT = partial(Operation, full_precision=FULL, dtypes=("bfloat16", "float16"))


def _normed(generator: torch.Generator, rows: int, width: int, columns: int) -> Inputs:
    """Draw rows of various means, their inverse deviations, and a product with the LayerNorm folded in."""
    x = 2 * normal(generator, rows, width) + normal(generator, rows, 1)
    norm_weight, norm_bias = uniform(generator, width, low=0.5, high=1.5), uniform(generator, width)
    folded = fold(norm_weight, norm_bias, normal(generator, columns, width) / width**0.5, None, torch.bfloat16)
    return {
        "x": x,
        "rstd": (x.var(1, correction=0) + EPS).rsqrt(),
        "weight": folded.weight.float(),
        "shift": folded.shift,
    }


@delayed
def _gated(generator: torch.Generator, rows: int, width: int = 512, hidden: int = 1408) -> Inputs:
    return _normed(generator, rows, width, 2 * hidden)


@delayed
def _attention(
    generator: torch.Generator, rows: int, width: int = 512, heads: int = 8, parts: int = 1,
    grid: tuple[int, int] | None = (32, 32), scaled: bool = True,
) -> Inputs:  # fmt: skip
    found = _normed(generator, rows, width, 3 * heads * 64)
    found["rstd"] = found["rstd"] if parts else None
    rope = rope_table(*grid, 64, generator.device) if grid else None
    scales = [uniform(generator, 64, low=0.5, high=1.5) if scaled else None for _ in range(2)]
    return found | {
        "normed": parts * heads * 64, "cos": rope and rope.cos, "sin": rope and rope.sin,
        "q_scale": scales[0], "k_scale": scales[1], "heads": heads,
    }  # fmt: skip


@delayed
def _residual(
    generator: torch.Generator, rows: int, width: int = 512, inner: int = 1408, biased: bool = False
) -> Inputs:
    return {
        "a": normal(generator, rows, inner),
        "weight": normal(generator, width, inner) / inner**0.5,
        "bias": normal(generator, width) if biased else None,
        "residual": normal(generator, rows, width),
    }


def gated_path(x: Tensor, rstd: Tensor, weight: Tensor, shift: Tensor) -> Tensor:
    """Run LayerNorm, one product with the LayerNorm's weight folded in, and the gate.

    The weight's rows count as all values before all gates, which is the same work without a copy.
    """
    normed = F.layer_norm(x, x.shape[-1:], eps=EPS)
    value, gate = F.linear(normed, weight, shift.to(x.dtype)).chunk(2, dim=1)
    return value * F.gelu(gate)


def attention_path(
    x: Tensor,
    rstd: Tensor | None,
    weight: Tensor,
    normed: int,
    cos: Tensor | None,
    sin: Tensor | None,
    q_scale: Tensor | None,
    k_scale: Tensor | None,
    heads: int,
    shift: Tensor,
) -> Tensor:
    """Run LayerNorm, a product for each kind of input, and the preparation of queries and keys."""
    first = F.linear(F.layer_norm(x, x.shape[-1:], eps=EPS), weight[:normed], shift[:normed].to(x.dtype))
    if normed == weight.shape[0]:
        out = first.unflatten(1, (3, heads, -1))
        parts = out.unbind(1)
    else:
        parts = torch.cat((first, F.linear(x, weight[normed:])), dim=1).unflatten(1, (3, heads, -1)).unbind(1)
    if q_scale is None or k_scale is None:
        return torch.stack(parts, dim=1) if normed != weight.shape[0] else out
    frames = 1 if cos is None else x.shape[0] // cos.shape[0]
    rope = None if cos is None or sin is None else RopeTable(cos, sin)
    q, k = (
        cosine(part.unflatten(0, (frames, -1)), scale, rope).to(x.dtype).flatten(0, 1)
        for part, scale in zip(parts[:2], (q_scale, k_scale), strict=True)
    )
    return torch.stack((q, k, parts[2]), dim=1)


GATED = PRODUCT(
    operator=gated_linear,
    checked=(
        Case("1 row", _gated(1)),
        Case("333 rows, 256 to 704", _gated(333, 256, 704)),
        Case("2,100 rows, 256 to 704", _gated(2100, 256, 704)),
        Case("2,333 rows, 512 to 1408", _gated(2333)),
        Case("image 256, B 1", _gated(1024)),
    ),
    timed=on_grids(lambda *grid: _gated(math.prod(grid))),
    baselines={"cublas": gated_path},
    compilable=("cublas",),
)

ATTENTION = PRODUCT(
    operator=attention_inputs,
    checked=(
        Case("333 rows, 4 heads, not rotated", _attention(333, 256, 4, grid=None)),
        Case("315 rows, 5x7, 4 heads", _attention(315, 256, 4, grid=(5, 7))),
        Case("333 rows of windows", _attention(333, parts=3, grid=None, scaled=False)),
        Case("315 rows, 5x7, nothing normalised", _attention(315, 256, 4, parts=0, grid=(5, 7))),
        Case("333 rows of time", _attention(333, 256, 4, grid=None, scaled=False)),
        Case("2,345 rows, 5x7", _attention(2345, grid=(5, 7))),
        Case("image 256, B 1", _attention(1024)),
    ),
    timed=(
        *on_grids(lambda *grid: _attention(math.prod(grid), grid=grid[2:])),
        Case("windows, image 256, B 16", _attention(16_384, parts=3, grid=None, scaled=False)),
    ),
    baselines={"cublas": attention_path},
    compilable=("cublas",),
)

RESIDUAL = PRODUCT(
    operator=residual_linear,
    checked=(
        Case("1 row", _residual(1)),
        Case("333 rows, 704 to 256, bias", _residual(333, 256, 704, biased=True)),
        Case("2,333 rows, 512 to 512, bias", _residual(2333, 512, 512, biased=True)),
        Case("5,001 rows, 1408 to 512", _residual(5001)),
        Case("image 256, B 1", _residual(1024)),
    ),
    timed=(
        *on_grids(lambda *grid: _residual(math.prod(grid))),
        Case("512 to 512, image 256, B 1", _residual(1024, 512, 512)),
        Case("512 to 512, image 256, B 16", _residual(16_384, 512, 512)),
    ),
    backends=("reference",),
)
