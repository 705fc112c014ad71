"""EfficientNet-Lite0, the feature extractor of the "lite" metrics; parameter names of the published PyTorch weights."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from training.networks.padding import pad_same

EPSILON = 1e-3  # of batch normalisation
STEM, HEAD, CLASSES = 32, 1280, 1000
SIDE = 224  # pixels of the input's square


class Stage(NamedTuple):
    """Equal blocks in a row, the first of which may halve the picture."""

    blocks: int
    kernel: int
    stride: int
    expansion: int
    channels: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)


class _Conv(nn.Conv2d):
    """Convolution without bias, padded by the rule "SAME"."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(pad_same(x, self.kernel_size, self.stride))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=EPSILON)


class _Block(nn.Module):
    """Inverted bottleneck: expand, filter each channel by itself, project; added to its input where the shape stays."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        if expansion > 1:
            self._expand_conv, self._bn0 = _Conv(inputs, inner, 1), _norm(inner)
        self._depthwise_conv, self._bn1 = _Conv(inner, inner, kernel, stride, groups=inner), _norm(inner)
        self._project_conv, self._bn2 = _Conv(inner, outputs, 1), _norm(outputs)
        self.expands, self.adds = expansion > 1, stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.adds else y


class EfficientNetLite0(nn.Module):
    """ImageNet classifier of 4.65 M parameters without squeeze-and-excitation, with ReLU6 throughout.

    Source: Tan and Le, "EfficientNet", 2019, table 1, at width and depth 1, in the "lite" form of its authors' code.
    """

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = _Conv(3, STEM, 3, stride=2), _norm(STEM)
        blocks, channels = [], STEM
        for stage in STAGES:
            for number in range(stage.blocks):
                stride = stage.stride if number == 0 else 1
                blocks.append(_Block(channels, stage.channels, stage.kernel, stride, stage.expansion))
                channels = stage.channels
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = _Conv(channels, HEAD, 1), _norm(HEAD)
        self._fc = nn.Linear(HEAD, CLASSES)  # in the file, though no metric uses it

    def forward(self, pictures: Tensor) -> Tensor:
        """Return pooled features.

        Args:
            pictures: float (N, 3, 224, 224), RGB as (value - 127) / 128 with value in [0, 255].

        Returns:
            (N, 1280).
        """
        x = F.relu6(self._bn0(self._conv_stem(pictures)))
        for block in self._blocks:
            x = block(x)
        return F.relu6(self._bn1(self._conv_head(x))).mean(dim=(2, 3))
