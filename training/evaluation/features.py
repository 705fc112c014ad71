"""Features of originals and reconstructions, gathered batch by batch, and projections of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.evaluation.distances import Indices, half_split
from training.evaluation.preprocessing import Preprocessing

SEED = 0  # of projections, subsets and half splits
FRAMES_AT_ONCE = 32
Features = NDArray[np.float32]


class FeaturePairs:
    """Features of originals and of their reconstructions, an array (rows, d) for each item."""

    def __init__(self) -> None:
        self.originals: list[Features] = []
        self.restored: list[Features] = []

    def update(self, originals: Tensor, restored: Tensor) -> None:
        """Gather features (items, rows, d) of both."""
        self.originals += list(originals.float().cpu().numpy())
        self.restored += list(restored.float().cpu().numpy())

    def __len__(self) -> int:
        return len(self.originals)

    def compare(self, distance: Callable[[Features, Features], float]) -> tuple[float, float | None]:
        """Return a distance between originals and reconstructions, and between random halves of the originals."""

        def between_halves(first: Indices, second: Indices) -> float:
            return distance(*(np.concatenate([self.originals[i] for i in part]) for part in (first, second)))

        value = distance(np.concatenate(self.originals), np.concatenate(self.restored))
        return value, half_split(len(self), between_halves, SEED)


def frame_features(network: nn.Module, prepare: Preprocessing, clips: Tensor) -> Tensor:
    """Return the features of every frame.

    Args:
        network: takes what `prepare` gives.
        prepare: of that network.
        clips: uint8 (N, T, H, W, 3) on the network's device.

    Returns:
        float32 (N, T, d).
    """
    parts = [network(prepare(part)) for part in clips.flatten(0, 1).split(FRAMES_AT_ONCE)]
    return torch.cat(parts).unflatten(0, clips.shape[:2])


def motion(clips: Tensor, step: int) -> Tensor:
    """Return the change over `step` frames as pictures: twice the absolute difference.

    Args:
        clips: uint8 (N, T, H, W, 3), T above `step`.

    Returns:
        uint8 (N, T - step, H, W, 3).
    """
    difference = clips[:, step:].to(torch.int16) - clips[:, :-step].to(torch.int16)
    return (2 * difference.abs()).clamp_max(255).to(torch.uint8)


def projection(inputs: int, outputs: int) -> Features:
    """Return a fixed random projection with orthonormal columns, float32 (inputs, outputs).

    It keeps a covariance regular where there are fewer items than features.
    """
    # the legacy generator: its stream is guaranteed never to change
    normal = np.random.RandomState(SEED).standard_normal((inputs, outputs))
    columns, triangle = np.linalg.qr(normal)
    return (columns * np.sign(np.diag(triangle))).astype(np.float32)
