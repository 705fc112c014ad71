"""Choice of the loader for a folder of data."""

from __future__ import annotations

from pathlib import Path

import torch

from training.data.loaders.batch import Loader
from training.data.loaders.device_loader import DeviceLoader
from training.data.shards import INFO_FILE, open_set
from training.distributed import Ranks


def open_loader(
    data: Path,
    device: torch.device,
    seed: int,
    ranks: Ranks | None = None,
    workers: int = 0,
    fps: float | None = None,
) -> Loader:
    """Open a folder of data.

    Args:
        data: either holds sets of pixels below `train/`, as `omnitok data build demo` writes them, which are taken into
            the device's memory; or holds a user's own files (see `find_sources`), in any folders or in tar shards,
            which are decoded as they are drawn.
        device: where batches are wanted.
        seed: of the crops.
        ranks: the processes that share every batch.
        workers: processes that decode files; 0 decodes in this process. Sets of pixels need none.
        fps: frames per second of clips cut from videos; as recorded if None. Sets of pixels are as they were built.

    Raises:
        TrainingError: the folder holds no data, or sets that do not fit in the device's memory.
    """
    folders = sorted(path.parent for path in (data / "train").glob(f"*/{INFO_FILE}"))
    if folders:
        sets = [open_set(folder) for folder in folders]
        photos = [held.shards for held in sets if held.info.frames == 1]
        clips = [held.shards for held in sets if held.info.frames > 1]
        return DeviceLoader(photos, clips, device, seed, ranks)
    # sets of pixels need no decoder: machines that hold only torch train on them
    from training.data.files import find_sources
    from training.data.loaders.file_loader import FileLoader

    return FileLoader(*find_sources(data), device, seed, ranks, workers, fps)
