"""The convolutional trunk of VGG16, whose features the perceptual losses compare."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # channels and convolutions
CHANNELS = tuple(channels for channels, _ in BLOCKS)


@dataclass(frozen=True)
class Normalization:
    """The input normalisation of a trunk: (x - mean) / std per channel of RGB, for x in [-0.5, 0.5]."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


# The packaged trunk takes values of 0 to 255 less the means of its training data.
PACKAGED = Normalization(
    mean=(122.67892 / 255 - 0.5, 116.66877 / 255 - 0.5, 104.00699 / 255 - 0.5), std=(1 / 255, 1 / 255, 1 / 255)
)
# LPIPS takes [-1, 1]: its shift and scale, halved for [-0.5, 0.5].
LPIPS = Normalization(mean=(-0.015, -0.044, -0.094), std=(0.229, 0.224, 0.225))


class VGG16(nn.Module):
    """The 13 convolutions of VGG16 (14,714,688 parameters) under torchvision's names; frozen.

    Args:
        normalization: what its weights expect of pixels.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, normalization: Normalization) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(normalization.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(normalization.std).view(3, 1, 1), persistent=False)
        layers: list[nn.Module] = []
        self._ends: list[int] = []
        inputs = 3
        for number, (channels, convolutions) in enumerate(BLOCKS):
            if number:
                layers.append(nn.MaxPool2d(2))
            for _ in range(convolutions):
                layers += [nn.Conv2d(inputs, channels, 3, padding=1), nn.ReLU(inplace=True)]
                inputs = channels
            self._ends.append(len(layers) - 1)
        self.features = nn.Sequential(*layers)
        self.requires_grad_(False).eval()
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Return the features after each of the five blocks: (N, C, H / s, W / s) for s of 1, 2, 4, 8, 16.

        Args:
            pixels: float (N, H, W, 3) in [-0.5, 0.5], H and W at least 16.
        """
        x = (pixels.permute(0, 3, 1, 2) - self.mean) / self.std
        features = []
        for number, layer in enumerate(self.features):
            x = layer(x)
            if number in self._ends:
                features.append(x)
        return tuple(features)
