"""The definition of the head's projection."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-5  # of the LayerNorm
MIN_NORM = 1e-12  # shorter vectors are divided by this instead of their norm


class ProjectArgs(NamedTuple):
    """The arguments of the operator.

    Args:
        x (Tensor): shape (..., C), any float dtype (float64 stays).
        norm_weight, norm_bias (Tensor): shape (C,), or None; the LayerNorm needs the weight.
        weight (Tensor): shape (d, C).
        bias (Tensor): shape (d,).
        unit (bool): l2-normalise the vectors; False for the moments of a Gaussian.
    """

    x: Tensor
    norm_weight: Tensor | None
    norm_bias: Tensor | None
    weight: Tensor
    bias: Tensor
    unit: bool = True


def vq_project(args: ProjectArgs) -> Tensor:
    """Return normalize(LayerNorm(x) W^T + bias) in float32, since small differences change the nearest code.

    Returns:
        Tensor: float32, shape (..., d).
    """
    x, norm_weight, norm_bias, weight, bias, unit = args
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    with torch.autocast(x.device.type, enabled=False):
        y = x.to(dtype)
        if norm_weight is not None:
            shift = None if norm_bias is None else norm_bias.to(dtype)
            y = F.layer_norm(y, y.shape[-1:], norm_weight.to(dtype), shift, EPS)
        y = F.linear(y, weight.to(dtype), bias.to(dtype))
        return F.normalize(y, dim=-1, eps=MIN_NORM) if unit else y
