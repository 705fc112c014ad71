"""The definitions of LayerNorm and of its statistics, readable and on any device."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-5


def row_statistics(x: Tensor, eps: float = EPS) -> Tensor:
    """What LayerNorm needs to know of each row: its mean and 1 / sqrt(variance + eps).

    Args:
        x (Tensor): shape (..., C), any float dtype.
        eps (float): added to the variance.

    Returns:
        Tensor: shape (..., 2), mean then inverse deviation, float32 (float64 of a float64 input).
    """
    variance, mean = torch.var_mean(_wide(x), dim=-1, correction=0)
    return torch.stack((mean, (variance + eps).rsqrt()), dim=-1)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float = EPS) -> Tensor:
    """LayerNorm over the last dimension, statistics and arithmetic in float32.

    Args:
        x (Tensor): shape (..., C), any float dtype.
        weight (Tensor): shape (C,).
        bias (Tensor): shape (C,), or None.
        eps (float): added to the variance.

    Returns:
        Tensor: shape and dtype of x.
    """
    wide = _wide(x)
    bias = None if bias is None else bias.to(wide.dtype)
    return F.layer_norm(wide, x.shape[-1:], weight.to(wide.dtype), bias, eps).to(x.dtype)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
