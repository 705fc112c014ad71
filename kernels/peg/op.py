"""The positional convolution as differentiable custom operators."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from kernels.peg.reference import check_past
from kernels.runtime.custom_op import launch_op
from kernels.runtime.device import MAX_GRID_YZ, triton_unsupported

peg_forward = launch_op(
    "peg",
    "(Tensor x, Tensor weight, Tensor bias, Tensor? past, bool causal, bool published) -> Tensor",
    "peg.convolve",
)
input_gradient = launch_op(
    "peg_input_gradient", "(Tensor grad, Tensor weight, bool causal, bool published) -> Tensor", "peg.input_gradient"
)
weight_gradient = launch_op(
    "peg_weight_gradient",
    "(Tensor x, Tensor grad, Tensor? past, bool causal, bool published) -> (Tensor, Tensor)",
    "peg.weight_gradient",
)


@peg_forward.register_fake
@input_gradient.register_fake
def _(x: Tensor, *args: Any) -> Tensor:
    return x.new_empty(x.shape)


@weight_gradient.register_fake
def _(x: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
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
        # carried frames have no output here, so their upstream gradient is zero; their own gradient is not
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
    """Return why the kernels cannot run this call, or None."""
    batch, frames, height, width, channels = x.shape
    if batch > MAX_GRID_YZ or height > MAX_GRID_YZ:
        return f"batch={batch} and height={height} must be at most {MAX_GRID_YZ}"
    # offsets of a clip with two carried frames; and the division that finds rows in published order
    if (frames + 2) * height * width * max(frames, channels) >= 1 << 31:
        return f"offsets within {tuple(x.shape[1:])} exceed 32 bits"
    return triton_unsupported(x, weight, bias, past)


def peg(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    past: Tensor | None = None,
    causal: bool = True,
    order: Literal["causal", "published"] = "causal",
) -> Tensor:
    """Run the kernels; arguments are those of `reference.peg`."""
    check_past(past, causal, order)
    out: Tensor = peg_forward(x, weight, bias, past, causal, order == "published")
    return out
