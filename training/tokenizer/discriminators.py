"""Patch discriminators of the GAN loss (section 3.1.2): one for images, one for clips."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

_GROUPS = 32


class DiscriminatorOutput(NamedTuple):
    """The output of a discriminator.

    Args:
        logits: (N, 1, h, w) or (N, 1, t, h, w), one for each patch; above 0 for what looks like data.
        features: (N, C, ...) after each rectifier, shallow to deep.
    """

    logits: Tensor
    features: tuple[Tensor, ...]


class PatchDiscriminator(nn.Module):
    """Strided convolutions that judge overlapping patches of 70 x 70 pixels (with three strided layers).

    Normalisation is by groups within an item, never over the batch: an item's judgement does not depend on its
    neighbours, real and reconstructed pictures may be judged together or separately, and two ranks train as one would.

    Clips: time is halved by the first two layers with kernels of 3, which keeps 1 + 4k frames at 1 + 2k and 1 + k, the
    tokenizer's own latent frames; a single frame stays one.

    Args:
        dims: 2 for images, 3 for clips.
        channels: of the first layer, a multiple of 32; doubled by each further layer, up to eight times.
        layers: how many halve height and width.
    """

    def __init__(self, dims: Literal[2, 3], channels: int = 64, layers: int = 3) -> None:
        super().__init__()
        if dims not in (2, 3) or channels % _GROUPS or channels < _GROUPS or layers < 1:
            raise ValueError(
                f"dims={dims} must be 2 or 3, channels={channels} a multiple of {_GROUPS}, "
                f"and layers={layers} at least 1."
            )
        self.dims = dims
        self.smallest = 3 * 2**layers
        widths = [3, *(channels * min(2**number, 8) for number in range(layers + 1))]
        self.blocks = nn.ModuleList()
        for number, (narrow, wide) in enumerate(pairwise(widths)):
            convolution = self._convolution(narrow, wide, halve=number < layers, halve_time=number < 2)
            norm = [nn.GroupNorm(_GROUPS, wide)] if number else []
            self.blocks.append(nn.Sequential(convolution, *norm, nn.LeakyReLU(0.2, inplace=True)))
        self.judge = self._convolution(widths[-1], 1, halve=False, halve_time=False)
        self.to(memory_format=torch.channels_last if dims == 2 else torch.channels_last_3d)  # type: ignore[call-overload]

    def _convolution(self, narrow: int, wide: int, halve: bool, halve_time: bool) -> nn.Module:
        stride = 2 if halve else 1
        layer: nn.Conv2d | nn.Conv3d
        if self.dims == 2:
            layer = nn.Conv2d(narrow, wide, 4, stride=stride, padding=1)
        else:
            layer = nn.Conv3d(narrow, wide, (3, 4, 4), stride=(2 if halve_time else 1, stride, stride), padding=1)
        nn.init.normal_(layer.weight, std=0.02)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
        return layer

    def forward(self, pixels: Tensor) -> DiscriminatorOutput:
        """Judge pictures or clips.

        Args:
            pixels: float (N, 3, H, W) or (N, 3, T, H, W) in [-0.5, 0.5]: H and W at least 3 * 2^layers, any T from 1.

        Raises:
            ValueError: another number of dimensions, or too small a picture.
        """
        if pixels.dim() != self.dims + 2 or pixels.shape[1] != 3 or min(pixels.shape[-2:]) < self.smallest:
            raise ValueError(
                f"The {self.dims}-D discriminator takes 3 channels first and at least {self.smallest} pixels a side, "
                f"not {tuple(pixels.shape)}."
            )
        features = []
        x = 2.0 * pixels
        for block in self.blocks:
            x = block(x)
            features.append(x)
        return DiscriminatorOutput(self.judge(x), tuple(features))
