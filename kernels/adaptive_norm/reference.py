"""The definitions of the adaptive LayerNorm, on any device."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-6
MAX_FLOAT16 = torch.finfo(torch.float16).max


class AdaptiveNormArgs(NamedTuple):
    """The arguments of `adaptive_norm`.

    Args:
        x (Tensor): shape (B, N, C), any float dtype.
        shift, scale (Tensor): shape (B, C), any strides between items; its dtype is that of the output.
    """

    x: Tensor
    shift: Tensor
    scale: Tensor


def adaptive_norm(args: AdaptiveNormArgs) -> Tensor:
    """Return (x - mean) / sqrt(variance + EPS) * (1 + scale) + shift, with arithmetic in float32.

    Returns:
        Tensor: shape of x, dtype of `shift`.
    """
    x, shift, scale = args
    wide = _wide(x)
    normed = F.layer_norm(wide, x.shape[-1:], eps=EPS)
    return (normed * (1 + scale.to(wide.dtype)[:, None]) + shift.to(wide.dtype)[:, None]).to(shift.dtype)


class GatedNormArgs(NamedTuple):
    """The arguments of `gated_adaptive_norm`.

    Args:
        x (Tensor): shape (B, N, C), contiguous; updated in place.
        y (Tensor): shape (P, B, N, C), the branch that is added, as parts of a sum.
        bias (Tensor): shape (C,), added to the sum; or None.
        gate, shift, scale (Tensor): shape (B, C), any strides between items.
    """

    x: Tensor
    y: Tensor
    bias: Tensor | None
    gate: Tensor
    shift: Tensor
    scale: Tensor


def gated_adaptive_norm(args: GatedNormArgs) -> Tensor:
    """Add gate * (sum of y + bias) to x in place, and return `adaptive_norm` of the result.

    The result is normalised as it is, before it is rounded to the dtype of x. What float16 cannot hold becomes its
    largest number.

    Returns:
        Tensor: shape of x, dtype of `shift`.
    """
    x, y, bias, gate, shift, scale = args
    branch = _wide(y).sum(0)
    if bias is not None:
        branch = branch + bias
    total = _wide(x) + gate.to(branch.dtype)[:, None] * branch
    x.copy_(total.clamp(-MAX_FLOAT16, MAX_FLOAT16) if x.dtype == torch.float16 else total)
    return adaptive_norm(AdaptiveNormArgs(total, shift, scale))


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
