"""Metrics between originals and reconstructions through a network, each named after its network.

"FID", "FVD" and "LPIPS" are figures of the networks that their authors published, which a user gives by path. Figures
of the packaged networks are not comparable with them and say so in their names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from model.tokenizer.patches import to_float
from training.evaluation.features import SEED, FeaturePairs, Features, features_of, motion, projection
from training.evaluation.frechet import frechet_of
from training.evaluation.kernel import SUBSET_SIZE, SUBSETS, kernel_distance
from training.evaluation.preprocessing import I3D, INCEPTION, LITE
from training.evaluation.split_half import half_split
from training.networks.efficientnet import HEAD, EfficientNetLite0
from training.networks.i3d import InceptionI3D
from training.networks.inception import InceptionV3
from training.networks.lpips import FeatureDistance

PROJECTED = 64  # dimensions of the projected FID-lite
MOTION_PROJECTED = 48  # of each of the three parts of FVD-lite
MOTION_STEPS = (1, 4)  # frames that its differences span
CLIPS_AT_ONCE = 4
PAIRED_FRAMES_AT_ONCE = 8


@dataclass(frozen=True)
class Figure:
    """A measured value.

    Args:
        name: of the metric.
        value: smaller is better.
        half_split: what the metric says of two random halves of the originals, or None where there are too few.
    """

    name: str
    value: float
    half_split: float | None


class Judge(Protocol):
    """Compares one set; a fresh one is made for each."""

    def update(self, originals: Tensor, restored: Tensor) -> None:
        """Take in items, each uint8 (N, T, H, W, 3) on the network's device."""

    def figures(self) -> list[Figure]:
        """Return the metrics; empty below two items."""


class InceptionJudge:
    """rFID: Frechet distance of the FID Inception-v3's pooled features of all frames."""

    words = f"rFID: FID Inception-v3, 2048 pooled features of every frame; {INCEPTION}"

    def __init__(self, network: InceptionV3) -> None:
        self.network, self.pairs = network, FeaturePairs()

    def update(self, originals: Tensor, restored: Tensor) -> None:
        self.pairs.update(*(self._features(clips) for clips in (originals, restored)))

    def _features(self, clips: Tensor) -> Tensor:
        return features_of(self.network, INCEPTION, clips.flatten(0, 1)).unflatten(0, clips.shape[:2])

    def figures(self) -> list[Figure]:
        return [Figure("rFID", *self.pairs.compare(frechet_of))] if len(self.pairs) > 1 else []


class VideoJudge:
    """rFVD: Frechet distance of I3D's logits of whole clips."""

    words = f"rFVD: Inception-I3D of Kinetics-400 (RGB), 400 logits averaged over time, all frames of a clip; {I3D}"

    def __init__(self, network: InceptionI3D) -> None:
        self.network, self.pairs = network, FeaturePairs()

    def update(self, originals: Tensor, restored: Tensor) -> None:
        self.pairs.update(*(self._features(clips) for clips in (originals, restored)))

    def _features(self, clips: Tensor) -> Tensor:
        parts = []
        for some in clips.split(CLIPS_AT_ONCE):
            frames = I3D(some.flatten(0, 1)).unflatten(0, some.shape[:2])
            parts.append(self.network(frames.transpose(1, 2)))
        return torch.cat(parts)[:, None]

    def figures(self) -> list[Figure]:
        return [Figure("rFVD", *self.pairs.compare(frechet_of))] if len(self.pairs) > 1 else []


class LiteJudge:
    """FID-lite and KID-lite of frames, and FVD-lite of clips, all on EfficientNet-Lite0.

    FVD-lite compares, for each clip, the mean features of its frames and of its differences over one and over four
    frames, each projected to 48 dimensions. It sees blur, noise and frozen clips; the order of frames it hardly sees.

    Args:
        network: with its ImageNet weights.
        frames: of a clip; FVD-lite needs five.
    """

    words = (
        f"FID-lite, KID-lite: EfficientNet-Lite0, {HEAD} pooled features of every frame; {LITE}; FID-lite also in a "
        f"fixed random projection to {PROJECTED} dimensions; KID-lite over {SUBSETS} subsets of {SUBSET_SIZE}, whole "
        f"sets where they are no larger. FVD-lite: the same features of frames and of twice the absolute differences "
        f"over {' and '.join(map(str, MOTION_STEPS))} frames, each averaged over the clip and projected to "
        f"{MOTION_PROJECTED} dimensions. Seed {SEED} throughout"
    )

    def __init__(self, network: EfficientNetLite0, frames: int) -> None:
        self.network, self.moves = network, frames > max(MOTION_STEPS)
        self.pictures, self.clips = FeaturePairs(), FeaturePairs()
        self.narrow, self.motion_narrow = projection(HEAD, PROJECTED), projection(HEAD, MOTION_PROJECTED)

    def update(self, originals: Tensor, restored: Tensor) -> None:
        pictures = [self._features(clips) for clips in (originals, restored)]
        self.pictures.update(*pictures)
        if self.moves:
            pairs = zip((originals, restored), pictures, strict=True)
            self.clips.update(*(self._motion(clips, features) for clips, features in pairs))

    def _features(self, clips: Tensor) -> Tensor:
        return features_of(self.network, LITE, clips.flatten(0, 1)).unflatten(0, clips.shape[:2])

    def _motion(self, clips: Tensor, features: Tensor) -> Tensor:
        parts = [features, *(self._features(motion(clips, step)) for step in MOTION_STEPS)]
        narrow = torch.from_numpy(self.motion_narrow).to(features.device)
        return torch.cat([part.mean(dim=1) @ narrow for part in parts], dim=1)[:, None]

    def figures(self) -> list[Figure]:
        if len(self.pictures) < 2:
            return []
        found = [
            Figure("FID-lite", *self.pictures.compare(frechet_of)),
            Figure(f"FID-lite, {PROJECTED}-d", *self.pictures.compare(self._narrow_frechet)),
            Figure("KID-lite", *self.pictures.compare(_kernel)),
        ]
        if self.moves:
            found.append(Figure("FVD-lite", *self.clips.compare(frechet_of)))
        return found

    def _narrow_frechet(self, first: Features, second: Features) -> float:
        return frechet_of(first @ self.narrow, second @ self.narrow)


class PairedJudge:
    """Mean distance of each frame from its reconstruction: LPIPS, or the VGG distance of the packaged trunk.

    Args:
        name: of the figure.
        distance: gives a distance per frame.
    """

    KEPT = 64  # originals that are compared with each other, for the half-split figure

    def __init__(self, name: str, distance: FeatureDistance) -> None:
        self.name, self.distance = name, distance
        self.sum, self.count = 0.0, 0
        self.kept: list[Tensor] = []

    def update(self, originals: Tensor, restored: Tensor) -> None:
        for clip, again in zip(originals, restored, strict=True):
            self.sum += float(self._distances(again, clip).sum())
            self.count += len(clip)
            if len(self.kept) < self.KEPT:
                self.kept.append(clip[len(clip) // 2])

    def _distances(self, candidates: Tensor, frames: Tensor) -> Tensor:
        pairs = zip(candidates.split(PAIRED_FRAMES_AT_ONCE), frames.split(PAIRED_FRAMES_AT_ONCE), strict=True)
        return torch.cat([self.distance(to_float(a, torch.float32), to_float(b, torch.float32)) for a, b in pairs])

    def figures(self) -> list[Figure]:
        def apart(first: np.ndarray, second: np.ndarray) -> float:
            pictures = (torch.stack([self.kept[i] for i in part]) for part in (first, second))
            return float(self._distances(*pictures).mean())

        return [Figure(self.name, self.sum / self.count, half_split(len(self.kept), apart, SEED))] if self.count else []


def _kernel(first: Features, second: Features) -> float:
    return kernel_distance(first, second, SEED).mean
