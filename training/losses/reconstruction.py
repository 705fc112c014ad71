"""The reconstruction loss (section 3.1.2): how far the pixels are from the picture."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def reconstruction(out: Tensor, pixels: Tensor, l2: float, l1: float) -> Tensor:
    """`l2` times the mean squared error plus `l1` times the mean absolute error, in float32 or better.

    The paper trains with L2 alone. L1 is for recipes that want sharper edges before a discriminator joins.

    Args:
        out: float (B, T, H, W, 3), what the decoder made, about [-0.5, 0.5].
        pixels: float (B, T, H, W, 3) in [-0.5, 0.5].
        l2: weight of the mean squared error.
        l1: weight of the mean absolute error.
    """
    if out.dtype != pixels.dtype:
        out = out.to(pixels.dtype)
    loss = l2 * F.mse_loss(out, pixels)
    return loss + l1 * F.l1_loss(out, pixels) if l1 else loss
