"""The definitions of LayerNorm and of its divisor, on any device."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-5


class DeviationArgs(NamedTuple):
    """The arguments of `inverse_deviation`.

    Args:
        x (Tensor): shape (..., C), any float dtype.
        eps (float): added to the variance.
    """

    x: Tensor
    eps: float = EPS


def inverse_deviation(args: DeviationArgs) -> Tensor:
    """Return LayerNorm's factor of each row: 1 / sqrt(variance + eps).

    Returns:
        Tensor: shape (...), float32 (float64 of a float64 input).
    """
    return (_wide(args.x).var(dim=-1, correction=0) + args.eps).rsqrt()


class LayerNormArgs(NamedTuple):
    """The arguments of `layer_norm`.

    Args:
        x (Tensor): shape (..., C), any float dtype.
        weight (Tensor): shape (C,).
        bias (Tensor): shape (C,), or None.
        eps (float): added to the variance.
    """

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    eps: float = EPS


def layer_norm(args: LayerNormArgs) -> Tensor:
    """Normalise over the last dimension; statistics and arithmetic are in float32.

    Returns:
        Tensor: shape and dtype of x.
    """
    x, weight, bias, eps = args
    wide = _wide(x)
    bias = None if bias is None else bias.to(wide.dtype)
    return F.layer_norm(wide, x.shape[-1:], weight.to(wide.dtype), bias, eps).to(x.dtype)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
