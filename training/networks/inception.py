"""The Inception-v3 of the Frechet Inception distance; parameter names of `pt_inception-2015-12-05`.

It is the classifier of December 2015 that the metric's authors used, with 1,008 outputs, and differs from the usual
Inception-v3 in its pools: averages leave out the padding, and the last block takes a maximum instead of an average.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPSILON = 1e-3  # of batch normalisation
SIDE = 299  # pixels of the input's square
FEATURES, CLASSES = 2048, 1008
Pool = Literal["average", "max", "halve"]


class Step(NamedTuple):
    """A convolution of a branch: its parameter name, its outputs, its kernel."""

    name: str
    channels: int
    kernel: tuple[int, int]


Branch = Sequence[Step | tuple[Step, Step]]  # a pair forks, and both of its outputs are kept


class _Conv(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int], stride: int, padded: bool) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2) if padded else 0
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class _Mixed(nn.Module):
    """Branches side by side, and a pool.

    Args:
        inputs: channels.
        branches: convolutions in a row each; where the block halves the picture, the last of them has stride 2.
        pool: what the last branch begins with; "halve" is a maximum of stride 2 with no convolution after it.
        pooled: outputs of the convolution `branch_pool` after the pool.
    """

    def __init__(self, inputs: int, branches: Sequence[Branch], pool: Pool, pooled: int = 0) -> None:
        super().__init__()
        self.branches, self.pool = branches, pool
        outputs = pooled if pooled else inputs
        for branch in branches:
            channels = inputs
            for place, entry in enumerate(branch):
                steps = (entry,) if isinstance(entry, Step) else entry
                last = place == len(branch) - 1
                halves = pool == "halve" and last
                for step in steps:
                    layer = _Conv(channels, step.channels, step.kernel, 2 if halves else 1, padded=not halves)
                    self.add_module(step.name, layer)
                channels = steps[0].channels
                outputs += last * len(steps) * channels
        if pooled:
            self.branch_pool = _Conv(inputs, pooled, (1, 1), 1, padded=True)
        self.outputs = outputs

    def forward(self, x: Tensor) -> Tensor:
        parts = []
        for branch in self.branches:
            y = [x]
            for entry in branch:
                steps = (entry,) if isinstance(entry, Step) else entry
                y = [self.get_submodule(step.name)(y[0]) for step in steps]
            parts += y
        if self.pool == "halve":
            parts.append(F.max_pool2d(x, 3, 2))
        elif self.pool == "max":
            parts.append(self.branch_pool(F.max_pool2d(x, 3, 1, 1)))
        else:
            parts.append(self.branch_pool(F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)))
        return torch.cat(parts, dim=1)


def _branch(name: str, *convolutions: tuple[int, int, int], fork: int = 0) -> Branch:
    """Return a branch of convolutions (outputs, height, width), numbered as in the published names; a fork ends it."""
    numbered = len(convolutions) + bool(fork) > 1
    steps: list[Step | tuple[Step, Step]] = [
        Step(f"{name}_{number}" if numbered else name, channels, (height, width))
        for number, (channels, height, width) in enumerate(convolutions, 1)
    ]
    if fork:
        last = f"{name}_{len(steps) + 1}"
        steps.append((Step(f"{last}a", fork, (1, 3)), Step(f"{last}b", fork, (3, 1))))
    return steps


def _block_a(pooled: int) -> tuple[Sequence[Branch], Pool, int]:
    branches = (
        _branch("branch1x1", (64, 1, 1)),
        _branch("branch5x5", (48, 1, 1), (64, 5, 5)),
        _branch("branch3x3dbl", (64, 1, 1), (96, 3, 3), (96, 3, 3)),
    )
    return branches, "average", pooled


def _block_b() -> tuple[Sequence[Branch], Pool, int]:
    branches = (_branch("branch3x3", (384, 3, 3)), _branch("branch3x3dbl", (64, 1, 1), (96, 3, 3), (96, 3, 3)))
    return branches, "halve", 0


def _block_c(inner: int) -> tuple[Sequence[Branch], Pool, int]:
    branches = (
        _branch("branch1x1", (192, 1, 1)),
        _branch("branch7x7", (inner, 1, 1), (inner, 1, 7), (192, 7, 1)),
        _branch("branch7x7dbl", (inner, 1, 1), (inner, 7, 1), (inner, 1, 7), (inner, 7, 1), (192, 1, 7)),
    )
    return branches, "average", 192


def _block_d() -> tuple[Sequence[Branch], Pool, int]:
    branches = (
        _branch("branch3x3", (192, 1, 1), (320, 3, 3)),
        _branch("branch7x7x3", (192, 1, 1), (192, 1, 7), (192, 7, 1), (192, 3, 3)),
    )
    return branches, "halve", 0


def _block_e(pool: Pool) -> tuple[Sequence[Branch], Pool, int]:
    branches = (
        _branch("branch1x1", (320, 1, 1)),
        _branch("branch3x3", (384, 1, 1), fork=384),
        _branch("branch3x3dbl", (448, 1, 1), (384, 3, 3), fork=384),
    )
    return branches, pool, 192


MIXED = {
    "Mixed_5b": _block_a(32),
    "Mixed_5c": _block_a(64),
    "Mixed_5d": _block_a(64),
    "Mixed_6a": _block_b(),
    "Mixed_6b": _block_c(128),
    "Mixed_6c": _block_c(160),
    "Mixed_6d": _block_c(160),
    "Mixed_6e": _block_c(192),
    "Mixed_7a": _block_d(),
    "Mixed_7b": _block_e("average"),
    "Mixed_7c": _block_e("max"),
}


class InceptionV3(nn.Module):
    """The network up to its last pool, whose 2,048 features the Frechet Inception distance compares.

    Source: Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", 2015; Heusel et al., "GANs
    Trained by a Two Time-Scale Update Rule", 2017, appendix A1.
    """

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = _Conv(3, 32, (3, 3), 2, padded=False)
        self.Conv2d_2a_3x3 = _Conv(32, 32, (3, 3), 1, padded=False)
        self.Conv2d_2b_3x3 = _Conv(32, 64, (3, 3), 1, padded=True)
        self.Conv2d_3b_1x1 = _Conv(64, 80, (1, 1), 1, padded=False)
        self.Conv2d_4a_3x3 = _Conv(80, 192, (3, 3), 1, padded=False)
        channels = 192
        for name, (branches, pool, pooled) in MIXED.items():
            block = _Mixed(channels, branches, pool, pooled)
            self.add_module(name, block)
            channels = block.outputs
        self.fc = nn.Linear(FEATURES, CLASSES)  # in the file, though no metric uses it

    def forward(self, pictures: Tensor) -> Tensor:
        """Return pooled features.

        Args:
            pictures: float (N, 3, 299, 299) in [-1, 1], RGB.

        Returns:
            (N, 2048).
        """
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(pictures)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))
        x = F.max_pool2d(x, 3, 2)
        for name in MIXED:
            x = self.get_submodule(name)(x)
        return x.mean(dim=(2, 3))
