"""The perceptual loss: reconstructions are compared in the features of a trained network, beside their pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from training.errors import TrainingError
from training.networks.lpips import FeatureDistance, load_lpips, load_vgg_distance


class Perceptual(nn.Module):
    """Mean feature distance of frames; gradients reach `out` alone.

    Args:
        distance: gives a distance per frame.
    """

    def __init__(self, distance: FeatureDistance) -> None:
        super().__init__()
        self.distance = distance

    def forward(self, out: Tensor, pixels: Tensor) -> Tensor:
        """The scalar loss.

        Args:
            out: float (N, H, W, 3), what the decoder made, about [-0.5, 0.5]; H and W at least 16.
            pixels: float (N, H, W, 3) in [-0.5, 0.5].
        """
        return self.distance(out, pixels).mean()


def perceptual_loss(kind: Literal["none", "vgg", "lpips"], weights: Path | None) -> Perceptual | None:
    """The perceptual loss of a recipe, on the CPU, or None where it has none.

    Args:
        kind: "vgg" compares unit features of the packaged trunk; "lpips" is LPIPS 0.1 on VGG16.
        weights: for "vgg" the file `vgg16.safetensors` of `omnitok data networks`, for "lpips" a file or folder with
            torchvision's VGG16 and the published heads.

    Raises:
        TrainingError: the weights are missing or not what the kind needs.
    """
    if kind == "none":
        return None
    if weights is None:
        raise TrainingError(f"the perceptual loss {kind!r} needs its weights; `omnitok data networks` fetches VGG16")
    return Perceptual(load_vgg_distance(weights) if kind == "vgg" else load_lpips(weights))
