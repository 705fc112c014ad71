"""Which feed a folder of data calls for."""

from __future__ import annotations

from pathlib import Path

import torch

from training.data.sets import INFO_FILE, open_set
from training.errors import TrainingError
from training.feeds.draw import Feed
from training.feeds.resident import ResidentFeed


def open_feed(
    data: Path,
    device: torch.device,
    seed: int,
    rank: int = 0,
    ranks: int = 1,
    workers: int = 0,
    fps: float | None = None,
) -> Feed:
    """Open a folder of data.

    Args:
        data: either holds sets of pixels below `train/`, as `omnitok data build demo` writes them, which are taken into
            the device's memory; or holds a user's own files: `images/` and `clips/` or `videos/`, each with files in
            any folders or in tar shards, which are decoded as they are drawn.
        device: where batches are wanted.
        seed: of the draws.
        rank, ranks: this process among those that share every draw.
        workers: processes that decode files; 0 decodes in this process. Sets of pixels need none.
        fps: frames per second of clips cut from videos; as recorded if None. Sets of pixels are as they were built.

    Raises:
        TrainingError: the folder holds no data, or sets that do not fit in the device's memory.
    """
    folders = sorted(path.parent for path in (data / "train").glob(f"*/{INFO_FILE}"))
    if not folders:
        raise TrainingError(f"{data} holds no sets below train/")
    sets = [open_set(folder) for folder in folders]
    photos = [held.shards for held in sets if held.info.frames == 1]
    clips = [held.shards for held in sets if held.info.frames > 1]
    return ResidentFeed(photos, clips, device, seed, rank, ranks)
