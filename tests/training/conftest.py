"""Small data made on the spot: coloured shapes that move, enough to learn something from in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from training.data.loaders.device_loader import DeviceLoader
from training.data.shards import SetInfo, write_info, write_shard
from training.demo_data.debug import build_debug

SETS = {
    "train/photographs-256": (1, 64),
    "train/procgen-128": (5, 64),
    "held-out/photographs-128": (1, 64),
    "held-out/photographs-256": (1, 64),
    "held-out/camera-128": (5, 64),
    "held-out/procgen-128": (5, 64),
}


def moving_squares(count: int, frames: int, size: int, seed: int) -> np.ndarray:
    """uint8 (count, frames, size, size, 3): a square of one colour glides over a ground of another."""
    random = np.random.default_rng(seed)
    pixels = np.empty((count, frames, size, size, 3), np.uint8)
    for clip in pixels:
        clip[:] = random.integers(0, 256, 3)
        colour, side, left = random.integers(0, 256, 3), size // 3, int(random.integers(0, size // 2))
        for number, frame in enumerate(clip):
            frame[left + number : left + number + side, left : left + side] = colour
    return pixels


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with every set that training and evaluation read, in two shards each."""
    root = tmp_path / "data"
    for seed, (name, (frames, size)) in enumerate(SETS.items()):
        write_info(root / name, SetInfo(Path(name).name, frames, size, size, (), "drawn"))
        for shard in range(2):
            write_shard(root / name, shard, moving_squares(6, frames, size, 10 * seed + shard))
    return root


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the debug data; a test that changes some copies them."""
    folder = tmp_path_factory.mktemp("files")
    build_debug(folder)
    return folder


@pytest.fixture(scope="session")
def loader() -> DeviceLoader:
    """Squares in memory, enough for every draw of the debug recipe."""
    photographs, clips = (
        torch.from_numpy(moving_squares(count, frames, 64, seed))
        for seed, (count, frames) in enumerate([(24, 1), (12, 5)])
    )
    return DeviceLoader([[photographs]], [[clips]], torch.device("cpu"), seed=0)
