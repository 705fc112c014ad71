"""The positional convolution on torch's depthwise convolutions, with channels last by strides."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.peg.reference import check_past


def not_preferred(x: Tensor, *args: Any, **kwargs: Any) -> str | None:
    """Return why the reference is faster, or None."""
    if x.is_cuda and torch.is_grad_enabled():
        return "the backward pass of torch's depthwise convolution is slow on CUDA"
    return None


def peg(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    past: Tensor | None = None,
    causal: bool = True,
    order: Literal["causal", "published"] = "causal",
) -> Tensor:
    """Run torch's convolution; arguments are those of `reference.peg`."""
    batch, frames, height, width, channels = x.shape
    check_past(past, causal, order)
    weight, bias = weight.to(x.dtype), bias.to(x.dtype)
    before = 2 if causal else 1
    if frames == 1 and past is None:  # the other frames' taps only see padding
        taps = weight[before].permute(2, 0, 1).unsqueeze(1)
        out = F.conv2d(x.squeeze(1).permute(0, 3, 1, 2), taps, bias, padding=1, groups=channels)
        return x + out.permute(0, 2, 3, 1).unsqueeze(1)
    if order == "published":
        out = peg(x.permute(0, 2, 3, 1, 4).reshape(x.shape), weight, bias, causal=causal)
        return out.reshape(batch, height, width, frames, channels).permute(0, 3, 1, 2, 4)
    around = F.pad(x, (0, 0, 0, 0, 0, 0, before, 2 - before)) if past is None else torch.cat((past, x), dim=1)
    taps = weight.permute(3, 0, 1, 2).unsqueeze(1)
    out = F.conv3d(around.permute(0, 4, 1, 2, 3), taps, bias, padding=(0, 1, 1), groups=channels)
    return x + out.permute(0, 2, 3, 4, 1)
