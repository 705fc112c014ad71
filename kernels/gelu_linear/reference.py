"""The definition of a product that ends in GELU, on any device."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class GeluLinearArgs(NamedTuple):
    """The arguments of the operator.

    Args:
        x (Tensor): shape (..., K), dtype of the product.
        weight (Tensor): shape (N, K), same dtype.
        bias (Tensor): shape (N,), same dtype.
    """

    x: Tensor
    weight: Tensor
    bias: Tensor


def gelu_linear(args: GeluLinearArgs) -> Tensor:
    """Return gelu(x W^T + b) by the tanh approximation, with arithmetic in float32.

    Returns:
        Tensor: shape (..., N), dtype of `x`.
    """
    x, weight, bias = (tensor if tensor.dtype == torch.float64 else tensor.float() for tensor in args)
    return F.gelu(F.linear(x, weight, bias), approximate="tanh").to(args.x.dtype)
