"""Inception-I3D, the network of the Frechet video distance; parameter names of its published PyTorch ports."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.networks.padding import pad_same

EPSILON = 1e-5  # of batch normalisation, as in the evaluation of the published OmniTokenizer
SIDE = 224  # pixels of the input's square
MIN_FRAMES = 9  # fewer leave no two positions for the last pool
CLASSES = 400  # of Kinetics
Size = tuple[int, int, int]

# Outputs of each block: 1x1x1; 1x1x1 then 3x3x3; 1x1x1 then 3x3x3; after the pool.
MIXED = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
POOLS: dict[str, tuple[Size, Size]] = {  # before which block, kernel, stride
    "Mixed_3b": ((1, 3, 3), (1, 2, 2)),
    "Mixed_4b": ((3, 3, 3), (2, 2, 2)),
    "Mixed_5b": ((2, 2, 2), (2, 2, 2)),
}


def _pool(x: Tensor, kernel: Size, stride: Size) -> Tensor:
    return F.max_pool3d(pad_same(x, kernel, stride), kernel, stride)


class _Unit(nn.Module):
    """Convolution padded by the rule "SAME", batch normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(inputs, outputs, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(outputs, eps=EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv3d(pad_same(x, self.conv3d.kernel_size, self.conv3d.stride))))


class _Mixed(nn.Module):
    def __init__(self, inputs: int, outputs: tuple[int, ...]) -> None:
        super().__init__()
        self.b0 = _Unit(inputs, outputs[0], 1)
        self.b1a, self.b1b = _Unit(inputs, outputs[1], 1), _Unit(outputs[1], outputs[2], 3)
        self.b2a, self.b2b = _Unit(inputs, outputs[3], 1), _Unit(outputs[3], outputs[4], 3)
        self.b3b = _Unit(inputs, outputs[5], 1)
        self.outputs = outputs[0] + outputs[2] + outputs[4] + outputs[5]

    def forward(self, x: Tensor) -> Tensor:
        pooled = _pool(x, (3, 3, 3), (1, 1, 1))
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pooled)], dim=1)


class _Logits(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(inputs, CLASSES, 1)


class InceptionI3D(nn.Module):
    """Inception-v1 inflated to three dimensions, trained on Kinetics-400, RGB stream.

    Source: Carreira and Zisserman, "Quo Vadis, Action Recognition?", 2017; Unterthiner et al., "Towards Accurate
    Generative Models of Video", 2018, whose distance compares the logits.
    """

    def __init__(self) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = _Unit(3, 64, 7, 2)
        self.Conv3d_2b_1x1 = _Unit(64, 64, 1)
        self.Conv3d_2c_3x3 = _Unit(64, 192, 3)
        channels = 192
        for name, outputs in MIXED.items():
            block = _Mixed(channels, outputs)
            self.add_module(name, block)
            channels = block.outputs
        self.logits = _Logits(channels)

    def forward(self, clips: Tensor) -> Tensor:
        """Return logits, averaged over time.

        Args:
            clips: float (N, 3, T, 224, 224) in [-1, 1], RGB, T at least 9.

        Returns:
            (N, 400).
        """
        x = _pool(self.Conv3d_1a_7x7(clips), (1, 3, 3), (1, 2, 2))
        x = self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(x))
        for name in MIXED:
            if name in POOLS:
                x = _pool(x, *POOLS[name])
            x = self.get_submodule(name)(x)
        x = self.logits.conv3d(F.avg_pool3d(x, (2, 7, 7), stride=1))
        return x.mean(dim=(2, 3, 4))
