"""Metrics between originals and reconstructions through a network, each named after its network.

"FID", "FVD" and "LPIPS" are metrics of the networks that their authors published, which a user gives by path. Values
of the packaged networks are not comparable with them and say so in their names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from model.tokenizer.patches import to_float
from training.evaluation.distances import (
    SUBSET_SIZE,
    SUBSETS,
    Indices,
    frechet_distance,
    half_split,
    kernel_distance,
)
from training.evaluation.features import SEED, FeaturePairs, frame_features, motion, projection
from training.evaluation.preprocessing import I3D, INCEPTION, LITE
from training.networks.efficientnet import HEAD, EfficientNetLite0
from training.networks.i3d import InceptionI3D
from training.networks.inception import InceptionV3
from training.networks.lpips import FeatureDistance

PROJECTED = 64  # dimensions of the projected FID-lite
MOTION_PROJECTED = 48  # of each of the three parts of FVD-lite
MOTION_STEPS = (1, 4)  # frames that its differences span
CLIPS_AT_ONCE = 4
PAIRED_FRAMES_AT_ONCE = 8
MAX_HALF_SPLIT_ORIGINALS = 64

RFID_PROTOCOL = f"rFID: FID Inception-v3, 2048 pooled features of every frame; {INCEPTION}"
RFVD_PROTOCOL = f"rFVD: Inception-I3D of Kinetics-400 (RGB), 400 logits averaged over time, all frames of a clip; {I3D}"
LITE_PROTOCOL = (
    f"FID-lite, KID-lite: EfficientNet-Lite0, {HEAD} pooled features of every frame; {LITE}; FID-lite also in a "
    f"fixed random projection to {PROJECTED} dimensions; KID-lite over {SUBSETS} subsets of {SUBSET_SIZE}, whole "
    f"sets where they are no larger. FVD-lite: the same features of frames and of twice the absolute differences "
    f"over {' and '.join(map(str, MOTION_STEPS))} frames, each averaged over the clip and projected to "
    f"{MOTION_PROJECTED} dimensions. Seed {SEED} throughout"
)


@dataclass(frozen=True)
class MetricValue:
    """A measured value.

    Args:
        name: of the metric.
        value: smaller is better.
        half_split: the metric of two random halves of the originals, or None where there are too few.
    """

    name: str
    value: float
    half_split: float | None


class SetMetric(Protocol):
    """A comparison of one set; a fresh one is made for each."""

    def update(self, originals: Tensor, restored: Tensor) -> None:
        """Gather items, each uint8 (N, T, H, W, 3) on the network's device."""

    def compute(self) -> list[MetricValue]:
        """Return the values; none below two items."""


class FrechetMetric:
    """Frechet distance of features.

    Args:
        name: of the value.
        extract: gives features (N, rows, d) of clips (N, T, H, W, 3).
    """

    def __init__(self, name: str, extract: Callable[[Tensor], Tensor]) -> None:
        self.name, self.extract, self.pairs = name, extract, FeaturePairs()

    def update(self, originals: Tensor, restored: Tensor) -> None:
        self.pairs.update(self.extract(originals), self.extract(restored))

    def compute(self) -> list[MetricValue]:
        return [MetricValue(self.name, *self.pairs.compare(frechet_distance))] if len(self.pairs) > 1 else []


def rfid(network: InceptionV3) -> FrechetMetric:
    """Return rFID: the distance of the FID Inception-v3's pooled features of all frames."""
    return FrechetMetric("rFID", lambda clips: frame_features(network, INCEPTION, clips))


def rfvd(network: InceptionI3D) -> FrechetMetric:
    """Return rFVD: the distance of I3D's logits of whole clips."""

    def logits(clips: Tensor) -> Tensor:
        parts = []
        for some in clips.split(CLIPS_AT_ONCE):
            frames = I3D(some.flatten(0, 1)).unflatten(0, some.shape[:2])
            parts.append(network(frames.transpose(1, 2)))
        return torch.cat(parts)[:, None]

    return FrechetMetric("rFVD", logits)


class LiteMetrics:
    """FID-lite and KID-lite of frames, and FVD-lite of clips, all on EfficientNet-Lite0.

    FVD-lite compares, for each clip, the mean features of its frames and of its differences over one and over four
    frames, each projected to 48 dimensions. It sees blur, noise and frozen clips; the order of frames it hardly sees.

    Args:
        network: with its ImageNet weights.
        frames: of a clip; FVD-lite needs five.
    """

    def __init__(self, network: EfficientNetLite0, frames: int) -> None:
        self.network, self.moves = network, frames > max(MOTION_STEPS)
        self.frames, self.clips = FeaturePairs(), FeaturePairs()
        self.narrow, self.motion_narrow = projection(HEAD, PROJECTED), projection(HEAD, MOTION_PROJECTED)

    def update(self, originals: Tensor, restored: Tensor) -> None:
        features = [frame_features(self.network, LITE, clips) for clips in (originals, restored)]
        self.frames.update(*features)
        if self.moves:
            self.clips.update(self._motion(originals, features[0]), self._motion(restored, features[1]))

    def _motion(self, clips: Tensor, features: Tensor) -> Tensor:
        parts = [features, *(frame_features(self.network, LITE, motion(clips, step)) for step in MOTION_STEPS)]
        narrow = torch.from_numpy(self.motion_narrow).to(features.device)
        return torch.cat([part.mean(dim=1) @ narrow for part in parts], dim=1)[:, None]

    def compute(self) -> list[MetricValue]:
        if len(self.frames) < 2:
            return []
        narrow = self.frames.compare(lambda first, second: frechet_distance(first @ self.narrow, second @ self.narrow))
        kernel = self.frames.compare(lambda first, second: kernel_distance(first, second, SEED))
        values = [
            MetricValue("FID-lite", *self.frames.compare(frechet_distance)),
            MetricValue(f"FID-lite, {PROJECTED}-d", *narrow),
            MetricValue("KID-lite", *kernel),
        ]
        if self.moves:
            values.append(MetricValue("FVD-lite", *self.clips.compare(frechet_distance)))
        return values


class PairedMetric:
    """Mean distance of each frame from its reconstruction: LPIPS, or the VGG distance of the packaged trunk.

    Args:
        name: of the value.
        distance: gives a distance per frame.
    """

    def __init__(self, name: str, distance: FeatureDistance) -> None:
        self.name, self.distance = name, distance
        self.sum, self.count = 0.0, 0
        self.originals: list[Tensor] = []

    def update(self, originals: Tensor, restored: Tensor) -> None:
        for clip, copy in zip(originals, restored, strict=True):
            self.sum += float(self._distances(copy, clip).sum())
            self.count += len(clip)
            if len(self.originals) < MAX_HALF_SPLIT_ORIGINALS:
                self.originals.append(clip[len(clip) // 2])

    def _distances(self, candidates: Tensor, frames: Tensor) -> Tensor:
        pairs = zip(candidates.split(PAIRED_FRAMES_AT_ONCE), frames.split(PAIRED_FRAMES_AT_ONCE), strict=True)
        return torch.cat([self.distance(to_float(a, torch.float32), to_float(b, torch.float32)) for a, b in pairs])

    def compute(self) -> list[MetricValue]:
        def between_halves(first: Indices, second: Indices) -> float:
            frames = (torch.stack([self.originals[i] for i in part]) for part in (first, second))
            return float(self._distances(*frames).mean())

        if not self.count:
            return []
        return [MetricValue(self.name, self.sum / self.count, half_split(len(self.originals), between_halves, SEED))]
