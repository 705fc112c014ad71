"""The definition of products with few rows, on any device."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.norm.reference import DeviationArgs, inverse_deviation

INT8_MAX = 127
MIN_COUNTERS = 4096


class ThinArgs(NamedTuple):
    """The arguments of the operator.

    Args:
        x (Tensor): shape (R, K), any float dtype.
        weight (Tensor): shape (N, K), dtype of x or int8; from `fold` where `normed`.
        bias (Tensor): shape (N,), or None; from `fold` where `normed`.
        residual (Tensor): shape (R, N), added last, or None.
        scale (Tensor): shape (N,), float32, of an int8 weight's rows (`quantize_rows`); None for other weights.
        normed (bool): multiply LayerNorm(x) rather than x.
        gelu (bool): apply the exact GELU before the residual.
        full_precision (bool): return float32 rather than the dtype of x.
        counters (Tensor): int32 zeros, MIN_COUNTERS of them, left zero; saves their allocation in calls that need no
            more. Calls that may run at the same time need counters of their own.
        moments (Tensor): float32, shape (R, parts, 2), or None: means and summed squared differences from them of equal
            parts of a row. A normed call reads those of x; a call with a residual writes those of its result.
    """

    x: Tensor
    weight: Tensor
    bias: Tensor | None = None
    residual: Tensor | None = None
    scale: Tensor | None = None
    normed: bool = False
    gelu: bool = False
    full_precision: bool = False
    counters: Tensor | None = None
    moments: Tensor | None = None


def thin_linear(args: ThinArgs) -> Tensor:
    """Return gelu(scale rstd x W^T + bias) + residual, with rstd = 1 / sqrt(var(x) + 1e-5) for LayerNorm.

    Returns:
        Tensor: shape (R, N), dtype of x, or float32 (float64 of float64 inputs).
    """
    x, weight, bias, residual, scale, normed, gelu, full_precision, _, moments = args
    product = F.linear(x, weight.to(x.dtype))
    product = product if product.dtype == torch.float64 else product.float()
    if scale is not None:
        product = product * scale
    if normed:
        product = product * inverse_deviation(DeviationArgs(x))[:, None]
    if bias is not None:
        product = product + bias
    if gelu:
        product = F.gelu(product)
    if residual is not None:
        product = product + residual
    out = product if full_precision else product.to(x.dtype)
    if residual is not None and moments is not None:
        moments.copy_(moments_of(out, moments.shape[1]))
    return out


def moments_of(x: Tensor, parts: int) -> Tensor:
    """Return the moments (R, parts, 2) of rows, float32 (float64 of float64 rows)."""
    wide = x if x.dtype == torch.float64 else x.float()
    variance, mean = torch.var_mean(wide.unflatten(1, (parts, -1)), 2, correction=0)
    return torch.stack((mean, variance * (x.shape[1] // parts)), 2)


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round each row of a weight to int8 with its own scale; a row that sums to zero, as `fold` makes it, still does.

    Returns:
        Tensor: int8, shape (N, K).
        Tensor: float32 scales, shape (N,).
    """
    exact = weight.detach().float()
    scale = exact.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny) / INT8_MAX
    wanted = exact / scale[:, None]
    rounded = wanted.round()
    # the whole numbers by which rounding moved the row's sum go to the elements nearest to the next step
    excess = (rounded.sum(1) - wanted.sum(1)).round()
    direction = -excess.sign()[:, None]
    moved = rounded + direction
    gain = torch.where(moved.abs() <= INT8_MAX, (wanted - rounded) * direction, -torch.inf)
    rank = gain.argsort(1, descending=True).argsort(1)
    rounded = torch.where(rank < excess.abs()[:, None], moved, rounded)
    return rounded.to(torch.int8).contiguous(), scale.contiguous()
