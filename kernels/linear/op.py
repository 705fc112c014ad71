"""The fused products as custom operators: opaque to the compiler, without gradients.

The launches are imported when they are first called, since a machine without a GPU need not have triton.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.linear.reference import GATE_GROUP
from kernels.runtime.device import triton_unsupported

TORCH_MIN_INNER = 1024  # numbers of a row, beyond which ours wins by too little
INNER_MULTIPLE = 64  # what K must be a multiple of: the loop over it has no masks
HEAD_DIM = 64  # columns of the narrowest tile that holds whole heads


@torch.library.custom_op("omnitok::gated_linear", mutates_args=())
def gated_linear(x: Tensor, rstd: Tensor, weight: Tensor, shift: Tensor) -> Tensor:
    from kernels.linear import launch

    return launch.gated_linear(x, rstd, weight, shift)


@gated_linear.register_fake
def _(x: Tensor, rstd: Tensor, weight: Tensor, shift: Tensor) -> Tensor:
    return x.new_empty((x.shape[0], weight.shape[0] // 2))


@torch.library.custom_op("omnitok::attention_inputs", mutates_args=())
def attention_inputs(
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
) -> Tensor:
    from kernels.linear import launch

    return launch.attention_inputs(x, rstd, weight, normed, cos, sin, q_scale, k_scale, heads, shift)


@attention_inputs.register_fake
def _(
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
) -> Tensor:
    return x.new_empty((x.shape[0], 3, heads, weight.shape[0] // (3 * heads)))


@torch.library.custom_op("omnitok::residual_linear", mutates_args=())
def residual_linear(a: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor) -> Tensor:
    from kernels.linear import launch

    return launch.residual_linear(a, weight, bias, residual)


@residual_linear.register_fake
def _(a: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor) -> Tensor:
    return a.new_empty((a.shape[0], weight.shape[0]))


def _unsupported(x: Tensor, weight: Tensor, *others: Tensor | None) -> str | None:
    """Say what no product here can take."""
    tensors = [tensor for tensor in (x, weight, *others) if tensor is not None]
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return "no gradients"
    if (reason := triton_unsupported(*tensors)) is not None:
        return reason
    if x.dim() != 2 or weight.dim() != 2 or x.shape[1] != weight.shape[1]:
        return f"{tuple(x.shape)} and {tuple(weight.shape)} are no matrices that multiply"
    if weight.dtype != x.dtype:
        return f"a weight in {weight.dtype} for inputs in {x.dtype}"
    if x.dtype == torch.float32:
        return "the library multiplies float32 faster and rounds less"
    if x.shape[1] == 0 or x.shape[1] % INNER_MULTIPLE:
        return f"{x.shape[1]} columns of x are not multiples of {INNER_MULTIPLE}"
    return None


def gated_linear_unsupported(x: Tensor, rstd: Tensor, weight: Tensor, shift: Tensor) -> str | None:
    """Say why the kernel cannot run this call, or None."""
    if (reason := _unsupported(x, weight, rstd, shift)) is not None:
        return reason
    if weight.shape[0] % (2 * GATE_GROUP):
        return f"{weight.shape[0]} rows of values and gates are not multiples of {2 * GATE_GROUP}"
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
    """Say why the kernel cannot run this call, or None."""
    if (reason := _unsupported(x, weight, rstd, cos, sin, q_scale, k_scale, shift)) is not None:
        return reason
    if rstd is None and normed:
        return f"no inverse deviations for {normed} normalised columns"
    width = weight.shape[0] // 3
    if width % HEAD_DIM:
        return f"{width} query columns are not multiples of {HEAD_DIM}"
    if q_scale is not None and width != heads * HEAD_DIM:
        return f"heads of {width // heads} columns, not {HEAD_DIM}"
    if normed % width:
        return f"{normed} normalised columns are not multiples of the {width} of the queries"
    return None


def residual_linear_unsupported(a: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor) -> str | None:
    """Say why the kernel cannot run this call, or None."""
    return _unsupported(a, weight, bias, residual)


def residual_linear_not_preferred(a: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor) -> str | None:
    """Say where torch's call is as fast, or nearly so (H200)."""
    return (
        f"rows of {a.shape[1]} numbers; torch is about as fast beyond {TORCH_MIN_INNER}"
        if a.shape[1] > TORCH_MIN_INNER
        else None
    )
