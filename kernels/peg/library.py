"""The positional convolution on torch's depthwise convolutions, with channels last by strides."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.peg.reference import PegArgs, check_past
from kernels.runtime.dispatch import Implementation


def not_preferred(args: PegArgs) -> str | None:
    """Return why the reference is faster, or None."""
    if args.x.is_cuda and torch.is_grad_enabled():
        return "the backward pass of torch's depthwise convolution is slow on CUDA"
    return None


def peg(args: PegArgs) -> Tensor:
    """Run torch's convolution."""
    check_past(args)
    x, past, causal = args.x, args.past, args.causal
    batch, frames, height, width, channels = x.shape
    weight, bias = args.weight.to(x.dtype), args.bias.to(x.dtype)
    before = 2 if causal else 1
    if frames == 1 and past is None:  # the other frames' taps only see padding
        taps = weight[before].permute(2, 0, 1).unsqueeze(1)
        out = F.conv2d(x.squeeze(1).permute(0, 3, 1, 2), taps, bias, padding=1, groups=channels)
        return x + out.permute(0, 2, 3, 1).unsqueeze(1)
    if args.scrambled:
        out = peg(PegArgs(x.permute(0, 2, 3, 1, 4).reshape(x.shape), weight, bias, causal=causal))
        return out.reshape(batch, height, width, frames, channels).permute(0, 3, 1, 2, 4)
    around = F.pad(x, (0, 0, 0, 0, 0, 0, before, 2 - before)) if past is None else torch.cat((past, x), dim=1)
    taps = weight.permute(3, 0, 1, 2).unsqueeze(1)
    out = F.conv3d(around.permute(0, 4, 1, 2, 3), taps, bias, padding=(0, 1, 1), groups=channels)
    return x + out.permute(0, 2, 3, 4, 1)


TORCH = Implementation(peg, not_preferred=not_preferred)
