"""The fused products as custom operators, without backward passes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.linear.reference import GATE_GROUP
from kernels.runtime.custom_op import launch_op
from kernels.runtime.device import triton_unsupported

K_MULTIPLE = 64  # the loop over K has no masks
HEAD_DIM = 64  # columns of the narrowest tile
TORCH_MIN_K = 1024  # beyond it torch is about as fast on an H200

gated_linear = launch_op(
    "gated_linear", "(Tensor x, Tensor rstd, Tensor weight, Tensor shift) -> Tensor", "linear.gated_linear"
)
attention_inputs = launch_op(
    "attention_inputs",
    "(Tensor x, Tensor? rstd, Tensor weight, int normed, Tensor? cos, Tensor? sin, Tensor? q_scale, Tensor? k_scale,"
    " int heads, Tensor? shift=None) -> Tensor",
    "linear.attention_inputs",
)
residual_linear = launch_op(
    "residual_linear", "(Tensor a, Tensor weight, Tensor? bias, Tensor residual) -> Tensor", "linear.residual_linear"
)


@gated_linear.register_fake
def _(x: Tensor, rstd: Tensor, weight: Tensor, shift: Tensor) -> Tensor:
    return x.new_empty((x.shape[0], weight.shape[0] // 2))


@attention_inputs.register_fake
def _(x: Tensor, rstd: Tensor | None, weight: Tensor, *args: Any) -> Tensor:
    heads = args[5]
    return x.new_empty((x.shape[0], 3, heads, weight.shape[0] // (3 * heads)))


@residual_linear.register_fake
def _(a: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor) -> Tensor:
    return a.new_empty((a.shape[0], weight.shape[0]))


def _unsupported(x: Tensor, weight: Tensor, *others: Tensor | None) -> str | None:
    """Return what none of the products can run, or None."""
    if (reason := triton_unsupported(x, weight, *others, differentiable=False)) is not None:
        return reason
    if x.dim() != 2 or weight.dim() != 2 or x.shape[1] != weight.shape[1]:
        return f"shapes {tuple(x.shape)} and {tuple(weight.shape)} must be matrices (M, K) and (N, K)"
    if weight.dtype != x.dtype:
        return f"the weight's {weight.dtype} must be the inputs' {x.dtype}"
    if x.dtype == torch.float32:
        return "torch multiplies float32 faster and rounds less"
    if x.shape[1] == 0 or x.shape[1] % K_MULTIPLE:
        return f"K={x.shape[1]} must be a multiple of {K_MULTIPLE}"
    return None


def gated_linear_unsupported(x: Tensor, rstd: Tensor, weight: Tensor, shift: Tensor) -> str | None:
    """Return why the kernel cannot run this call, or None."""
    if (reason := _unsupported(x, weight, rstd, shift)) is not None:
        return reason
    if weight.shape[0] % (2 * GATE_GROUP):
        return f"the weight's {weight.shape[0]} rows must be a multiple of {2 * GATE_GROUP}"
    return None


def attention_inputs_unsupported(
    x: Tensor,
    rstd: Tensor | None,
    weight: Tensor,
    normed: int,
    cos: Tensor | None,
    sin: Tensor | None,
    q_scale: Tensor | None,
    k_scale: Tensor | None,
    heads: int,
    shift: Tensor | None = None,
) -> str | None:
    """Return why the kernel cannot run this call, or None."""
    if (reason := _unsupported(x, weight, rstd, cos, sin, q_scale, k_scale, shift)) is not None:
        return reason
    if rstd is None and normed:
        return f"normed={normed} needs rstd"
    width = weight.shape[0] // 3
    if width % HEAD_DIM:
        return f"the {width} columns of the queries must be a multiple of {HEAD_DIM}"
    if q_scale is not None and width != heads * HEAD_DIM:
        return f"head_dim={width // heads} must be {HEAD_DIM}"
    if normed % width:
        return f"normed={normed} must be a multiple of the {width} columns of the queries"
    return None


def residual_linear_unsupported(a: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor) -> str | None:
    """Return why the kernel cannot run this call, or None."""
    return _unsupported(a, weight, bias, residual)


def residual_linear_not_preferred(a: Tensor, *args: Any, **kwargs: Any) -> str | None:
    """Return why torch's call is as fast, or None."""
    return f"torch is about as fast for K={a.shape[1]}" if a.shape[1] > TORCH_MIN_K else None
