"""The three ways from a file to pixels: the service's sandbox, the command, and the training loader."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from waiting import SECONDS

from media.types import Frames, MediaOptions
from service.cli.inputs import open_media
from service.sandbox.pool import MediaPool
from service.settings import Limits
from training.data.files import Source, find_files
from training.data.loaders.file_loader import FLIP, PLACE, TIME, decode

Pixels = NDArray[np.uint8]
PATIENT = Limits(decode_seconds=SECONDS)


class Sandbox:
    """The service's media workers, called from plain functions."""

    def __init__(self, limits: Limits) -> None:
        self._loop = asyncio.new_event_loop()
        self._pool = MediaPool(limits, workers=1)
        self._loop.run_until_complete(self._pool.start())

    def read(self, data: bytes, options: MediaOptions) -> Frames:
        return self._loop.run_until_complete(self._pool.decode(data, None, options))

    def close(self) -> None:
        self._loop.run_until_complete(self._pool.stop())
        self._loop.close()


@contextmanager
def sandbox(limits: Limits = PATIENT) -> Iterator[Sandbox]:
    started = Sandbox(limits)
    try:
        yield started
    finally:
        started.close()


def command(path: Path, options: MediaOptions) -> Frames:
    """Read a file as `omnitok encode` does."""
    with open_media(path, options) as reader:
        planned = reader.info().kept_fps
        pixels = np.stack(list(reader))
    if len(pixels) == reader.expected:
        assert planned == reader.info().kept_fps  # before the first frame: the rate of clips that are written
    return Frames(pixels, reader.info(), reader.preprocess, reader.is_video)


def source_of(path: Path) -> Source:
    """The source of a folder that holds this file; its kind follows from the file's name."""
    found = find_files(path)
    source = found.images or found.clips
    assert source is not None
    return source


def training(path: Path, side: int, frames: int) -> Pixels:
    """Read a file as the training loader does when it draws the middle, the start, and no mirroring."""
    numbers = np.zeros(16)
    numbers[FLIP], numbers[PLACE], numbers[TIME] = 0.9, 0.5, 0.0
    return decode(source_of(path), 0, side, frames, None, numbers)
