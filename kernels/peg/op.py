"""The positional convolution as custom operators: opaque to the compiler, differentiable.

The launches are imported when they are first called, since a machine without a GPU need not have triton.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from kernels.peg.reference import check_past
from kernels.runtime.device import MAX_GRID_YZ, triton_unsupported


@torch.library.custom_op("omnitok::peg", mutates_args=())
def peg_forward(x: Tensor, weight: Tensor, bias: Tensor, past: Tensor | None, causal: bool, published: bool) -> Tensor:
    """The operator; arguments as `reference.peg`'s."""
    from kernels.peg import launch

    return launch.convolve(x, weight, bias, past, causal, published)


@peg_forward.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, past: Tensor | None, causal: bool, published: bool) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.custom_op("omnitok::peg_input_gradient", mutates_args=())
def input_gradient(grad: Tensor, weight: Tensor, causal: bool, published: bool) -> Tensor:
    """Gradient of the input (B, T, h, w, C) from that of the output."""
    from kernels.peg import launch

    return launch.convolve(grad, weight, None, None, causal, published, backward=True)


@input_gradient.register_fake
def _(grad: Tensor, weight: Tensor, causal: bool, published: bool) -> Tensor:
    return grad.new_empty(grad.shape)


@torch.library.custom_op("omnitok::peg_weight_gradient", mutates_args=())
def weight_gradient(
    x: Tensor, grad: Tensor, past: Tensor | None, causal: bool, published: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of weight (3, 3, 3, C) and bias (C,), float32, from that of the output."""
    from kernels.peg import launch

    return launch.weight_gradient(x, grad, past, causal, published)


@weight_gradient.register_fake
def _(x: Tensor, grad: Tensor, past: Tensor | None, causal: bool, published: bool) -> tuple[Tensor, Tensor]:
    channels = x.shape[-1]
    weight = torch.empty((3, 3, 3, channels), dtype=torch.float32, device=x.device)
    return weight, torch.empty((channels,), dtype=torch.float32, device=x.device)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, past, ctx.causal, ctx.published = inputs
    ctx.save_for_backward(x, weight, past)
    ctx.bias_dtype = bias.dtype


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, past = ctx.saved_tensors
    wants_x, wants_weight, wants_bias, wants_past = ctx.needs_input_grad[:4]
    d_x = d_weight = d_bias = d_past = None
    if past is not None and (wants_x or wants_past):
        # the frames carried over are outputs nobody saw: their gradient is zero, what flows to them is not
        whole = torch.cat((torch.zeros_like(past, dtype=grad.dtype), grad), dim=1)
        found = input_gradient(whole, weight, ctx.causal, ctx.published)
        d_past, d_x = found[:, :2].to(past.dtype), found[:, 2:]
    elif wants_x:
        d_x = input_gradient(grad, weight, ctx.causal, ctx.published)
    if wants_weight or wants_bias:
        d_weight, d_bias = weight_gradient(x, grad, past, ctx.causal, ctx.published)
        d_weight, d_bias = d_weight.to(weight.dtype), d_bias.to(ctx.bias_dtype)
    return d_x, d_weight, d_bias, d_past, None, None


peg_forward.register_autograd(_backward, setup_context=_save)


def unsupported(
    x: Tensor, weight: Tensor, bias: Tensor, past: Tensor | None = None, *args: Any, **kwargs: Any
) -> str | None:
    """Say why the kernels cannot run this call."""
    batch, frames, height, width, channels = x.shape
    if batch > MAX_GRID_YZ or height > MAX_GRID_YZ:
        return f"{batch} items of {height} rows; a launch takes {MAX_GRID_YZ} of either"
    # of a clip and the two frames before it; and the division that finds rows in published order
    if (frames + 2) * height * width * max(frames, channels) >= 1 << 31:
        return f"offsets within {tuple(x.shape[1:])} do not fit in 32 bits"
    return triton_unsupported(x, weight, bias, past)


def peg(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    past: Tensor | None = None,
    causal: bool = True,
    order: Literal["causal", "published"] = "causal",
) -> Tensor:
    """The operator on our kernels."""
    check_past(past, causal, order)
    return peg_forward(x, weight, bias, past, causal, order == "published")
