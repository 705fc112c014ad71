"""The positional convolution as differentiable custom operators."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.peg.reference import PegArgs, check_past
from kernels.runtime.custom_op import launch_op
from kernels.runtime.device import MAX_GRID_YZ, triton_unsupported
from kernels.runtime.dispatch import Implementation

peg_forward = launch_op("peg.peg", PegArgs)
# the gradient of the output takes the place of x
input_gradient = launch_op("peg.peg_input_gradient", PegArgs)
weight_gradient = launch_op("peg.peg_weight_gradient", PegArgs, "(Tensor, Tensor)", grad=True)


@peg_forward.register_fake
@input_gradient.register_fake
def _(x: Tensor, *args: Any) -> Tensor:
    return x.new_empty(x.shape)


@weight_gradient.register_fake
def _(grad: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    channels = grad.shape[-1]
    weight = torch.empty((3, 3, 3, channels), dtype=torch.float32, device=grad.device)
    return weight, torch.empty((channels,), dtype=torch.float32, device=grad.device)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.causal, ctx.order = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, bias, past = ctx.saved_tensors
    wants_x, wants_weight, wants_bias = ctx.needs_input_grad[:3]
    d_x = d_weight = d_bias = d_past = None
    if past is not None and (wants_x or ctx.needs_input_grad[3]):  # torch omits a past that is None
        # carried frames have no output here, so their upstream gradient is zero; their own gradient is not
        whole = torch.cat((torch.zeros_like(past, dtype=grad.dtype), grad), dim=1)
        found = input_gradient(whole, weight, bias, None, ctx.causal, ctx.order)
        d_past, d_x = found[:, :2].to(past.dtype), found[:, 2:]
    elif wants_x:
        d_x = input_gradient(grad, weight, bias, None, ctx.causal, ctx.order)
    if wants_weight or wants_bias:
        d_weight, d_bias = weight_gradient(grad, x, weight, bias, past, ctx.causal, ctx.order)
        d_weight, d_bias = d_weight.to(weight.dtype), d_bias.to(bias.dtype)
    return d_x, d_weight, d_bias, d_past, None, None


peg_forward.register_autograd(_backward, setup_context=_save)


def unsupported(args: PegArgs) -> str | None:
    """Return why the kernels cannot run this call, or None."""
    batch, frames, height, width, channels = args.x.shape
    if batch > MAX_GRID_YZ or height > MAX_GRID_YZ:
        return f"batch={batch} and height={height} must be at most {MAX_GRID_YZ}"
    # offsets of a clip with two carried frames; and the division that finds rows in published order
    if (frames + 2) * height * width * max(frames, channels) >= 1 << 31:
        return f"offsets within {tuple(args.x.shape[1:])} exceed 32 bits"
    return triton_unsupported(args.x, args.weight, args.bias, args.past)


def peg(args: PegArgs) -> Tensor:
    """Run the kernels."""
    check_past(args)
    out: Tensor = peg_forward(*args)
    return out


TRITON = Implementation(peg, unsupported)
