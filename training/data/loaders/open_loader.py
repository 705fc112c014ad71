"""Choice of the loader for a folder of data."""

from __future__ import annotations

from pathlib import Path

import torch

from training.data.files import Source, find_files
from training.data.loaders.batch import Loader
from training.data.loaders.device_loader import DeviceLoader
from training.data.loaders.file_loader import FileLoader
from training.data.media_types import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from training.data.shards import INFO_FILE, open_set
from training.distributed import Ranks
from training.errors import TrainingError


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
    sources = find_sources(data)
    return FileLoader(*sources, device, seed, ranks, workers, fps)


def find_sources(data: Path) -> tuple[Source | None, Source | None]:
    """Return the images and the clips of a folder of files.

    Args:
        data: holds `images/` and `clips/` or `videos/`; or, without these, files of either kind or tar shards of them.

    Raises:
        TrainingError: the folder does not exist or holds neither, or has labels that are wrong.
    """
    images, clips = data / "images", [data / name for name in ("clips", "videos") if (data / name).is_dir()]
    if len(clips) > 1:
        raise TrainingError(f"{data} has both clips/ and videos/: keep one")
    if not images.is_dir() and not clips:
        found = find_files(data)
        sources = found.images, found.clips
    else:
        sources = (
            find_files(images).images if images.is_dir() else None,
            find_files(clips[0]).clips if clips else None,
        )
    if sources == (None, None):
        raise TrainingError(
            f"{data} holds no data: no sets of pixels below train/, no images ({', '.join(sorted(IMAGE_SUFFIXES))}), "
            f"no videos ({', '.join(VIDEO_SUFFIXES)}) and no tar shards of them"
        )
    return sources
