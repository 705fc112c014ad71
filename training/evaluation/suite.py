"""The judging networks that are there: which files, which judges for which set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from training.evaluation.set_metrics import InceptionJudge, Judge, LiteJudge, PairedJudge, VideoJudge
from training.networks.efficientnet import EfficientNetLite0
from training.networks.i3d import LEAST_FRAMES, InceptionI3D
from training.networks.inception import InceptionV3
from training.networks.lpips import FeatureDistance, load_lpips, load_vgg_distance
from training.networks.weights import load_weights


@dataclass(frozen=True)
class NetworkPaths:
    """Where the networks' weights are.

    Args:
        packaged: folder that `omnitok data networks` fills.
        inception: the FID Inception-v3, or None to have no rFID.
        i3d: Inception-I3D, or None to have no rFVD.
        lpips: LPIPS 0.1 on VGG16, a file or a folder, or None to have no LPIPS.
    """

    packaged: Path
    inception: Path | None = None
    i3d: Path | None = None
    lpips: Path | None = None


class Bench:
    """The networks that are there, loaded once.

    Args:
        paths: their files. One that was named must be there; the packaged ones may be missing.
        device: where they run.

    Raises:
        TrainingError: a file that is there, or was named, does not hold the network.
    """

    def __init__(self, paths: NetworkPaths, device: torch.device) -> None:
        self.files: dict[str, Path] = {}
        self.missing: dict[str, Path] = {}
        inception = self._named("inception", paths.inception)
        self.inception = None if inception is None else load_weights(InceptionV3(), inception).to(device)
        video = self._named("i3d", paths.i3d)
        self.i3d = None if video is None else load_weights(InceptionI3D(), video).to(device)
        lite = None
        if self.inception is None or self.i3d is None:
            lite = self._packaged("FID-lite, KID-lite and FVD-lite", paths.packaged / "efficientnet-lite0.safetensors")
        self.lite = None if lite is None else load_weights(EfficientNetLite0(), lite).to(device)
        self.paired: tuple[str, FeatureDistance] | None = None
        if published := self._named("lpips", paths.lpips):
            self.paired = "LPIPS", load_lpips(published).to(device)
        elif vgg := self._packaged("the VGG distance", paths.packaged / "vgg16.safetensors"):
            self.paired = "VGG distance", load_vgg_distance(vgg).to(device)

    def _named(self, kind: str, path: Path | None) -> Path | None:
        if path is not None:
            self.files[kind] = path
        return path

    def _packaged(self, figures: str, path: Path) -> Path | None:
        if not path.exists():
            self.missing[figures] = path
            return None
        self.files[path.stem] = path
        return path

    def judges(self, frames: int) -> list[Judge]:
        """Fresh judges for a set of items of so many frames.

        The packaged network stands in where a standard one was not given.
        """
        judges: list[Judge] = []
        if self.inception is not None:
            judges.append(InceptionJudge(self.inception))
        if self.i3d is not None and frames >= LEAST_FRAMES:
            judges.append(VideoJudge(self.i3d))
        if self.lite is not None and (self.inception is None or frames > 1):
            judges.append(LiteJudge(self.lite, frames))
        if self.paired is not None:
            judges.append(PairedJudge(*self.paired))
        return judges

    def words(self) -> list[str]:
        """Describe the preprocessing of each available network."""
        said = [
            judge.words
            for judge, network in ((InceptionJudge, self.inception), (VideoJudge, self.i3d), (LiteJudge, self.lite))
            if network is not None
        ]
        if self.paired is not None:
            said.append(
                f"{self.paired[0]}: RGB in [-0.5, 0.5] at the size of the set, every frame with its reconstruction"
            )
        return said
