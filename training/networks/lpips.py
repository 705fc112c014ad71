"""Distances between pictures in the features of VGG16: LPIPS, and the same without its learned weights."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from training.errors import TrainingError
from training.networks.vgg import CHANNELS, LEVELS, VGG16, Scaling
from training.networks.weights import fill, load_weights, read_weights

# LPIPS takes [-1, 1]; these are its shift and scale, halved for [-0.5, 0.5].
PUBLISHED = Scaling(mean=(-0.015, -0.044, -0.094), std=(0.229, 0.224, 0.225))
_EPSILON = 1e-10  # of LPIPS: added to the norms


class Heads(nn.Module):
    """Learned weights of LPIPS: one for each channel of each block, 1,472 in all, under the published names."""

    def __init__(self) -> None:
        super().__init__()
        for number, channels in enumerate(CHANNELS):
            layer = nn.ModuleDict({"1": nn.Conv2d(channels, 1, 1, bias=False)})
            self.add_module(f"lin{number}", nn.ModuleDict({"model": layer}))

    def weights(self) -> list[Tensor]:
        """One tensor (C,) for each block."""
        return [parameter.detach().flatten() for parameter in self.parameters()]


class FeatureDistance(nn.Module):
    """Squared distance of features, each position's channels scaled to unit length, summed over the five blocks.

    Frozen: only the first picture receives a gradient.

    Args:
        trunk: gives the features.
        heads: float (C,) for each block, the weights of its channels; None counts every channel once.
    """

    def __init__(self, trunk: VGG16, heads: list[Tensor] | None) -> None:
        super().__init__()
        self.trunk = trunk
        self.heads = None if heads is None else nn.ParameterList(heads).requires_grad_(False)

    def forward(self, out: Tensor, pixels: Tensor) -> Tensor:
        """Distances (N,), in float32 or better whatever autocast says: 0 for equal pictures.

        Args:
            out: float (N, H, W, 3), about [-0.5, 0.5]; receives the gradient.
            pixels: float (N, H, W, 3) in [-0.5, 0.5].
        """
        with torch.no_grad():
            wanted = self.trunk(pixels)
        distances = [
            self._distance(number, _unit(made), _unit(real))
            for number, (made, real) in enumerate(zip(self.trunk(out), wanted, strict=True))
        ]
        return torch.stack(distances).sum(0)

    def _distance(self, number: int, made: Tensor, real: Tensor) -> Tensor:
        squares = (made - real).square().mean(dim=(2, 3))
        return (squares if self.heads is None else squares * self.heads[number]).sum(1)


def _unit(features: Tensor) -> Tensor:
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    return features / (torch.linalg.vector_norm(features, dim=1, keepdim=True) + _EPSILON)


def load_vgg_distance(path: Path) -> FeatureDistance:
    """The distance on the packaged trunk, without learned weights: not LPIPS, and about ten times as large.

    Args:
        path: vgg16.safetensors of `omnitok data networks`.

    Raises:
        TrainingError: the file is not that trunk.
    """
    return FeatureDistance(load_weights(VGG16(LEVELS), path), heads=None)


def load_lpips(path: Path) -> FeatureDistance:
    """LPIPS (version 0.1, VGG16) from its published weights.

    Args:
        path: a file with torchvision's VGG16 (`features.N.weight`, `features.N.bias`; its classifier is left out)
            and the heads (`lin0.model.1.weight` to `lin4`), or a folder with these in several files.

    Raises:
        TrainingError: a tensor is missing, unknown, twice there or of another shape, or a file holds more than tensors.
    """
    state = {name: tensor for name, tensor in _read(path).items() if not name.startswith("classifier.")}
    learned = {name: state.pop(name) for name in list(state) if name.startswith("lin")}
    return FeatureDistance(fill(VGG16(PUBLISHED), state, path), fill(Heads(), learned, path).weights())


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_dir():
        return read_weights(path)
    state: dict[str, Tensor] = {}
    for file in sorted(path.iterdir()):
        more = read_weights(file)
        if both := sorted(state.keys() & more.keys()):
            raise TrainingError(f"{path} holds {both[0]} in two files, one of them {file.name}")
        state |= more
    return state
