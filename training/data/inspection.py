"""Inspection of a folder by decoding some of its files, before a long run."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np

from media.types import SampleWindow
from training.data.files import Source
from training.errors import one_line
from training.processes import end_with_parent

SIDE, FRAMES = 256, 17  # of what is decoded
CHUNK_FILES = 64  # files that a process takes at a time


@dataclass(frozen=True)
class Probe:
    """One file, decoded once.

    Args:
        place: where it is, for people.
        broken: why it could not be decoded, or empty.
        width, height: of the picture in pixels.
        seconds: of a video, 0 for an image.
        rate: frames per second of a video, 0 for an image.
        took: seconds that decoding took.
    """

    place: str
    broken: str = ""
    width: int = 0
    height: int = 0
    seconds: float = 0.0
    rate: float = 0.0
    took: float = 0.0


@dataclass(frozen=True)
class Inspection:
    """Findings about one kind of file.

    Args:
        source: the files.
        probes: those that were decoded.
        classes: number of files of each class.
    """

    source: Source
    probes: tuple[Probe, ...]
    classes: dict[str, int]

    @property
    def whole(self) -> list[Probe]:
        """Return the files that could be decoded."""
        return [probe for probe in self.probes if not probe.broken]

    @property
    def broken(self) -> list[Probe]:
        """Return the files that could not."""
        return [probe for probe in self.probes if probe.broken]

    @property
    def rate(self) -> float:
        """Return the squares of 256 pixels, or 17 frames of them, that one core decodes in a second."""
        took = sum(probe.took for probe in self.whole)
        return len(self.whole) / took if took else 0.0

    def short(self, fps: float | None) -> int:
        """Count the videos with fewer than 17 frames at a frame rate: their last frame would stay."""
        return sum(probe.seconds * (fps or probe.rate) < FRAMES - 0.5 for probe in self.whole)


def inspect(source: Source, most: int, fps: float | None, workers: int, progress: Callable[[int], None]) -> Inspection:
    """Decode files and describe them.

    Args:
        source: the files.
        most: how many to decode, drawn at random with a fixed seed; 0 for all.
        fps: frames per second of clips, as recorded if None.
        workers: processes.
        progress: called with the number of files decoded so far.
    """
    size = len(source)
    chosen = np.random.default_rng(0).permutation(size)[: most or size]
    chunks = [chosen[start : start + CHUNK_FILES].tolist() for start in range(0, len(chosen), CHUNK_FILES)]
    probes: list[Probe] = []
    # each process receives the list of files once, not with every chunk
    with ProcessPoolExecutor(
        min(workers, len(chunks)), mp_context=get_context("forkserver"), initializer=_begin, initargs=(source, fps)
    ) as pool:
        for some in pool.map(_probe_all, chunks):
            probes += some
            progress(len(probes))
    counts = Counter(source.labels.tolist())
    return Inspection(source, tuple(probes), {name: counts[label] for label, name in enumerate(source.classes)})


_task: tuple[Source, float | None]


def _begin(source: Source, fps: float | None) -> None:
    global _task
    _task = source, fps
    end_with_parent()


def _probe_all(indices: Sequence[int]) -> list[Probe]:
    source, fps = _task
    return [probe(source, index, fps) for index in indices]


def probe(source: Source, index: int, fps: float | None) -> Probe:
    """Decode one file at 256 pixels, a video in the middle of its length."""
    place = source.place(index)
    try:
        started = time.perf_counter()
        info = source.read(index, SIDE, FRAMES, SampleWindow(start_position=0.5, fps=fps)).source
        took = time.perf_counter() - started
        return Probe(place, "", info.width, info.height, info.duration_s or 0.0, info.fps or 0.0, took)
    except Exception as error:  # damaged media fail in every way that there is
        return Probe(place, one_line(error))
