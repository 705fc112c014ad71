"""The gradients of the positional convolution written out, for devices without our kernels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.peg import reference


def _scrambled(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1, 4).reshape(x.shape)


def input_gradient(grad: Tensor, weight: Tensor, causal: bool, published: bool) -> Tensor:
    """Gradient of the input: the same convolution backwards in time, with taps mirrored in space.

    Args:
        grad (Tensor): shape (B, T, h, w, C), the gradient of the output.
        weight (Tensor): shape (3, 3, 3, C).
        causal, published (bool): as the operator's.

    Returns:
        Tensor: shape (B, T, h, w, C).
    """
    if published and grad.shape[1] > 1:
        batch, frames, height, width, channels = grad.shape
        found = input_gradient(_scrambled(grad), weight, causal, published=False)
        return found.reshape(batch, height, width, frames, channels).permute(0, 3, 1, 2, 4)
    bias = weight.new_zeros(weight.shape[-1])
    return reference.peg(grad.flip(1), weight.flip(1, 2), bias, causal=causal).flip(1)


def weight_gradient(
    x: Tensor, grad: Tensor, past: Tensor | None, causal: bool, published: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of weight and bias: sums of 27 shifted products.

    Args:
        x, grad (Tensor): shape (B, T, h, w, C), the input and the gradient of the output.
        past (Tensor): shape (B, 2, h, w, C), or None for zeros.
        causal, published (bool): as the operator's.

    Returns:
        tuple: float32, shapes (3, 3, 3, C) and (C,).
    """
    if published:
        x, grad = _scrambled(x), _scrambled(grad)
    _, frames, height, width, _ = x.shape
    before = 2 if causal else 1
    x, grad = x.float(), grad.float()
    x = F.pad(x, (0, 0, 0, 0, 0, 0, before, 2 - before)) if past is None else torch.cat((past.float(), x), dim=1)
    around = F.pad(x, (0, 0, 1, 1, 1, 1))
    taps = [
        (grad * around[:, t : t + frames, y : y + height, z : z + width]).sum((0, 1, 2, 3))
        for t in range(3)
        for y in range(3)
        for z in range(3)
    ]
    return torch.stack(taps).view(3, 3, 3, -1), grad.sum((0, 1, 2, 3))
