"""Distances between pictures in the features of VGG16: LPIPS, and the same without its learned weights."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from training.errors import TrainingError
from training.networks.vgg import CHANNELS, LPIPS, PACKAGED, VGG16
from training.networks.weights import fill, load_weights, read_weights

NORM_EPSILON = 1e-10  # of LPIPS


class ChannelWeights(nn.Module):
    """Learned weights of LPIPS: one for each channel of each block, 1,472 in all, under the published names."""

    def __init__(self) -> None:
        super().__init__()
        for number, channels in enumerate(CHANNELS):
            layer = nn.ModuleDict({"1": nn.Conv2d(channels, 1, 1, bias=False)})
            self.add_module(f"lin{number}", nn.ModuleDict({"model": layer}))


class FeatureDistance(nn.Module):
    """Squared distance of features, each position's channels scaled to unit length, summed over the five blocks.

    Frozen: only the first picture receives a gradient.

    Args:
        trunk: gives the features.
        weights: float (C,) for each block, of its channels; None counts every channel once.
    """

    def __init__(self, trunk: VGG16, weights: list[Tensor] | None) -> None:
        super().__init__()
        self.trunk = trunk
        self.weights = None if weights is None else nn.ParameterList(weights).requires_grad_(False)

    def forward(self, out: Tensor, pixels: Tensor) -> Tensor:
        """Return distances (N,), in float32 or better whatever autocast says: 0 for equal pictures.

        Args:
            out: float (N, H, W, 3), about [-0.5, 0.5]; receives the gradient.
            pixels: float (N, H, W, 3) in [-0.5, 0.5].
        """
        with torch.no_grad():
            wanted = self.trunk(pixels)
        distances = []
        for number, (made, real) in enumerate(zip(self.trunk(out), wanted, strict=True)):
            squares = (_unit(made) - _unit(real)).square().mean(dim=(2, 3))
            distances.append((squares if self.weights is None else squares * self.weights[number]).sum(1))
        return torch.stack(distances).sum(0)


def _unit(features: Tensor) -> Tensor:
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    return features / (torch.linalg.vector_norm(features, dim=1, keepdim=True) + NORM_EPSILON)


def load_perceptual(
    network: Literal["none", "vgg", "lpips"], weights: Path | None, device: torch.device | str = "cpu"
) -> FeatureDistance | None:
    """Load the perceptual distance of a recipe, or None where it has none.

    Args:
        network: "vgg" compares unit features of the packaged trunk; "lpips" is LPIPS 0.1 on VGG16.
        weights: as for `load_vgg_distance` or `load_lpips`.
        device: for the network.

    Raises:
        TrainingError: the weights are missing or not those of the network.
    """
    if network == "none":
        return None
    if weights is None or not weights.exists():
        missing = "no file is named" if weights is None else f"{weights} does not exist"
        raise TrainingError(
            f"The perceptual loss {network!r} needs its weights, and {missing}: `omnitok data networks` fetches VGG16."
        )
    return (load_vgg_distance(weights) if network == "vgg" else load_lpips(weights)).to(device)


def load_vgg_distance(path: Path) -> FeatureDistance:
    """Load the distance on the packaged trunk, without learned weights: not LPIPS, and about ten times as large.

    Args:
        path: vgg16.safetensors of `omnitok data networks`.

    Raises:
        TrainingError: the file is not that trunk.
    """
    return FeatureDistance(load_weights(VGG16(PACKAGED), path), weights=None)


def load_lpips(path: Path) -> FeatureDistance:
    """Load LPIPS (version 0.1, VGG16) from its published weights.

    Args:
        path: a file with torchvision's VGG16 (`features.N.weight`, `features.N.bias`; its classifier is left out)
            and LPIPS' weights (`lin0.model.1.weight` to `lin4`), or a folder with these in several files.

    Raises:
        TrainingError: a tensor is missing, unknown, twice there or of another shape, or a file holds more than tensors.
    """
    state: dict[str, Tensor] = {}
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        more = read_weights(file)
        if both := sorted(state.keys() & more.keys()):
            raise TrainingError(f"{path} holds {both[0]} in two files, one of them {file.name}.")
        state |= more
    learned = {name: state.pop(name) for name in list(state) if name.startswith("lin")}
    trunk = {name: tensor for name, tensor in state.items() if not name.startswith("classifier.")}
    weights = fill(ChannelWeights(), learned, path)
    return FeatureDistance(
        fill(VGG16(LPIPS), trunk, path), [weight.detach().flatten() for weight in weights.parameters()]
    )
