"""The fused products as custom operators, without backward passes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.linear.reference import GATE_GROUP, AttentionInputsArgs, GatedArgs, ResidualArgs
from kernels.runtime.custom_op import launch_op
from kernels.runtime.device import triton_unsupported
from kernels.runtime.dispatch import Implementation

K_MULTIPLE = 64  # the loop over K has no masks
HEAD_DIM = 64  # columns of the narrowest tile
TORCH_MIN_K = 1024  # beyond it torch is about as fast on an H200

gated_linear = launch_op("linear.gated_linear", GatedArgs)
attention_inputs = launch_op("linear.attention_inputs", AttentionInputsArgs)
residual_linear = launch_op("linear.residual_linear", ResidualArgs)


@gated_linear.register_fake
def _(x: Tensor, rstd: Tensor, weight: Tensor, shift: Tensor) -> Tensor:
    return x.new_empty((x.shape[0], weight.shape[0] // 2))


@attention_inputs.register_fake
def _(*flat: Any) -> Tensor:
    args = AttentionInputsArgs(*flat)
    return args.x.new_empty((args.x.shape[0], 3, args.heads, args.weight.shape[0] // (3 * args.heads)))


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


def _gated_unsupported(args: GatedArgs) -> str | None:
    if (reason := _unsupported(args.x, args.weight, args.rstd, args.shift)) is not None:
        return reason
    if args.weight.shape[0] % (2 * GATE_GROUP):
        return f"the weight's {args.weight.shape[0]} rows must be a multiple of {2 * GATE_GROUP}"
    return None


def _attention_inputs_unsupported(args: AttentionInputsArgs) -> str | None:
    x, rstd, weight, normed, cos, sin, q_scale, k_scale, heads, shift = args
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


def _residual_unsupported(args: ResidualArgs) -> str | None:
    return _unsupported(*args)


def _residual_not_preferred(args: ResidualArgs) -> str | None:
    columns = args.a.shape[1]
    return f"torch is about as fast for K={columns}" if columns > TORCH_MIN_K else None


GATED = Implementation.of_op(gated_linear, _gated_unsupported)
ATTENTION_INPUTS = Implementation.of_op(attention_inputs, _attention_inputs_unsupported)
RESIDUAL = Implementation.of_op(residual_linear, _residual_unsupported, _residual_not_preferred)
