"""The metric networks that are there: which files, which metrics for which set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from training.evaluation.set_metrics import (
    LITE_PROTOCOL,
    RFID_PROTOCOL,
    RFVD_PROTOCOL,
    LiteMetrics,
    PairedMetric,
    SetMetric,
    rfid,
    rfvd,
)
from training.networks.efficientnet import EfficientNetLite0
from training.networks.i3d import MIN_FRAMES, InceptionI3D
from training.networks.inception import InceptionV3
from training.networks.lpips import FeatureDistance, load_lpips, load_vgg_distance
from training.networks.weights import Network, load_weights


@dataclass(frozen=True)
class NetworkPaths:
    """The files of the networks' weights.

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


class MetricSuite:
    """The networks that are there, loaded once.

    Args:
        paths: their files. One that was named must be there; the packaged ones may be missing.
        device: where they run.

    Raises:
        TrainingError: a file that is there, or was named, does not hold the network.
    """

    def __init__(self, paths: NetworkPaths, device: torch.device) -> None:
        self.device = device
        self.files: dict[str, Path] = {}
        self.missing: dict[str, Path] = {}
        self.inception = self._load(InceptionV3(), "inception", paths.inception)
        self.i3d = self._load(InceptionI3D(), "i3d", paths.i3d)
        self.lite: EfficientNetLite0 | None = None
        if self.inception is None or self.i3d is None:
            path = self._packaged("FID-lite, KID-lite and FVD-lite", paths.packaged / "efficientnet-lite0.safetensors")
            self.lite = self._load(EfficientNetLite0(), "efficientnet-lite0", path)
        self.paired: tuple[str, FeatureDistance] | None = None
        if paths.lpips is not None:
            self.files["lpips"] = paths.lpips
            self.paired = "LPIPS", load_lpips(paths.lpips).to(device)
        elif path := self._packaged("the VGG distance", paths.packaged / "vgg16.safetensors"):
            self.files["vgg16"] = path
            self.paired = "VGG distance", load_vgg_distance(path).to(device)

    def _load(self, network: Network, name: str, path: Path | None) -> Network | None:
        if path is None:
            return None
        self.files[name] = path
        return load_weights(network, path).to(self.device)

    def _packaged(self, metrics: str, path: Path) -> Path | None:
        if path.exists():
            return path
        self.missing[metrics] = path
        return None

    def metrics(self, frames: int) -> list[SetMetric]:
        """Return fresh metrics for a set of items of so many frames.

        The packaged network replaces a standard one that was not given.
        """
        metrics: list[SetMetric] = []
        if self.inception is not None:
            metrics.append(rfid(self.inception))
        if self.i3d is not None and frames >= MIN_FRAMES:
            metrics.append(rfvd(self.i3d))
        if self.lite is not None and (self.inception is None or frames > 1):
            metrics.append(LiteMetrics(self.lite, frames))
        if self.paired is not None:
            metrics.append(PairedMetric(*self.paired))
        return metrics

    def protocols(self) -> list[str]:
        """Describe the preprocessing of each available network."""
        known = (RFID_PROTOCOL, self.inception), (RFVD_PROTOCOL, self.i3d), (LITE_PROTOCOL, self.lite)
        protocols = [protocol for protocol, network in known if network is not None]
        if self.paired is not None:
            protocols.append(
                f"{self.paired[0]}: RGB in [-0.5, 0.5] at the size of the set, every frame with its reconstruction"
            )
        return protocols
