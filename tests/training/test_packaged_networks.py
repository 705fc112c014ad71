"""Pretrained networks out of packages: converted exactly, made once, refused when their bytes are others."""

from __future__ import annotations

import hashlib
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from training.demo_data.networks import (
    PackagedNetwork,
    build_network,
    convert_state_dict,
    convert_vgg16,
    source_sha256,
)
from training.errors import TrainingError
from training.networks.vgg import BLOCKS


def keras_trunk(path: Path, narrow: int) -> dict[tuple[int, int], tuple[np.ndarray, np.ndarray]]:
    """An HDF5 file laid out as the package's, with every width divided by `narrow`; its kernels and biases."""
    random = np.random.default_rng(0)
    layers, wide = {}, 3
    with h5py.File(path, "w") as file:
        for block, (channels, convolutions) in enumerate(BLOCKS, start=1):
            for place in range(convolutions):
                kernel = random.normal(size=(3, 3, wide, channels // narrow)).astype(np.float32)
                bias = random.normal(size=channels // narrow).astype(np.float32)
                group = file.create_group(f"block{block}/layers/conv2d{f'_{place}' if place else ''}/vars")
                group["0"], group["1"] = kernel, bias
                layers[block, place] = kernel, bias
                wide = channels // narrow
        file.create_group("dsn1/vars")["0"] = np.zeros((1, 1, wide, 1), np.float32)
    return layers


@pytest.mark.parametrize(("number", "key"), [(0, (1, 0)), (2, (1, 1)), (10, (3, 0)), (28, (5, 2))])
def test_a_converted_convolution_gives_what_the_packages_gives(
    tmp_path: Path, number: int, key: tuple[int, int]
) -> None:
    """The package's layer written out with its channels last; its first one takes blue, green, red."""
    layers = keras_trunk(tmp_path / "trunk.h5", narrow=16)
    state = convert_vgg16(tmp_path / "trunk.h5")
    assert len(state) == 26
    kernel, bias = layers[key]
    theirs = np.random.default_rng(1).normal(size=(5, 5, kernel.shape[2])).astype(np.float32)
    expected = np.zeros((3, 3, kernel.shape[3]), np.float32)
    for y, x in np.ndindex(3, 3):
        expected[y, x] = np.einsum("hwi,hwio->o", theirs[y : y + 3, x : x + 3], kernel) + bias
    ours = torch.from_numpy(theirs[..., ::-1].copy() if number == 0 else theirs).permute(2, 0, 1)[None]
    weight, offset = state[f"features.{number}.weight"], state[f"features.{number}.bias"]
    assert weight.dtype == torch.float16
    result = F.conv2d(ours, weight.float(), offset.float())[0].permute(1, 2, 0)
    torch.testing.assert_close(result, torch.from_numpy(expected), atol=0.05, rtol=2e-3)


def packaged(cache: Path) -> PackagedNetwork:
    """A package that is in the cache already, so that nothing is fetched."""
    member = cache / "python" / "tiny==1.0" / "tiny" / "weights.pth"
    member.parent.mkdir(parents=True)
    torch.save({"_fc.weight": torch.arange(6.0).view(2, 3).t(), "_bn.num_batches_tracked": torch.tensor(3)}, member)
    digest = hashlib.sha256(member.read_bytes()).hexdigest()
    return PackagedNetwork("tiny.safetensors", "tiny==1.0", "tiny/weights.pth", digest, "MIT", convert_state_dict)


def test_names_and_values_stay_and_the_file_tells_its_source(tmp_path: Path) -> None:
    network = packaged(tmp_path)
    path = build_network(network, tmp_path, tmp_path)
    state = load_file(path)
    assert torch.equal(state["_fc.weight"], torch.arange(6.0).view(2, 3).t())
    assert state["_bn.num_batches_tracked"] == 3
    assert source_sha256(path) == network.sha256
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["tiny.safetensors"]


def test_a_file_is_made_once_and_made_anew_when_it_is_damaged(tmp_path: Path) -> None:
    network = packaged(tmp_path)
    path = build_network(network, tmp_path, tmp_path)
    made = path.stat().st_mtime_ns
    build_network(network, tmp_path, tmp_path)
    assert path.stat().st_mtime_ns == made
    path.write_bytes(path.read_bytes()[:100])
    build_network(network, tmp_path, tmp_path)
    assert source_sha256(path) == network.sha256
    assert load_file(path).keys() == {"_fc.weight", "_bn.num_batches_tracked"}


def test_other_bytes_than_the_recorded_are_refused(tmp_path: Path) -> None:
    network = packaged(tmp_path)
    member = tmp_path / "python" / "tiny==1.0" / "tiny" / "weights.pth"
    member.write_bytes(member.read_bytes() + b"\0")
    with pytest.raises(TrainingError, match=f"not the recorded {network.sha256}"):
        build_network(network, tmp_path, tmp_path)
    member.unlink()
    with pytest.raises(TrainingError, match=r"holds no weights\.pth"):
        build_network(network, tmp_path, tmp_path)
    assert not (tmp_path / "tiny.safetensors").exists()
