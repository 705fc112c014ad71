"""LayerNorm as torch operators: what the compiler and CUDA graphs see of the kernels; without gradients.

The launches are imported when they are first called, since a machine without a GPU need not have triton.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.norm.reference import EPS
from kernels.runtime.device import triton_unsupported

MAX_CHANNELS = 1024  # a row lies in registers


def inverse_deviation_unsupported(x: Tensor, eps: float = EPS) -> str | None:
    """Say why the kernel cannot run this call, or None."""
    return _unsupported(x)


def layer_norm_unsupported(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float = EPS) -> str | None:
    """Say why the kernel cannot run this call, or None."""
    return _unsupported(x, weight, bias)


def _unsupported(x: Tensor, *weights: Tensor | None) -> str | None:
    if (reason := triton_unsupported(x, *weights)) is not None:
        return reason
    if not 0 < x.shape[-1] <= MAX_CHANNELS:
        return f"{x.shape[-1]} channels; 1 to {MAX_CHANNELS} fit in registers"
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, *weights)):
        return "it gives no gradients"
    return None


def inverse_deviation(x: Tensor, eps: float = EPS) -> Tensor:
    return _inverse_deviation(x, eps)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float = EPS) -> Tensor:
    return _layer_norm(x, weight, bias, eps)


@torch.library.custom_op("omnitok::inverse_deviation", mutates_args=())
def _inverse_deviation(x: Tensor, eps: float) -> Tensor:
    from kernels.norm import launch

    return launch.inverse_deviation(x, eps)


@_inverse_deviation.register_fake
def _(x: Tensor, eps: float) -> Tensor:
    return torch.empty(x.shape[:-1], dtype=torch.float32, device=x.device)


@torch.library.custom_op("omnitok::layer_norm", mutates_args=())
def _layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    from kernels.norm import launch

    return launch.layer_norm(x, weight, bias, eps)


@_layer_norm.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)
