"""Batches from a user's own files, decoded by worker processes."""

from __future__ import annotations

import multiprocessing
import signal
import time
import warnings
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.context import BaseContext
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from media.kinds import Kind
from media.types import SampleWindow
from training.data.files import Source
from training.data.loaders.batch import BatchSpec
from training.data.loaders.item_rng import epoch_order, item_uniforms
from training.distributed import Ranks
from training.errors import TrainingError, one_line

FLIP, PLACE, TIME = range(3)  # places of an item's random numbers
MAX_BROKEN_SHOWN = 10
PREFETCH_FACTOR = 2  # batches that each worker prepares in advance


class FileLoader:
    """Batches of files of images and of videos: random squares, random windows in time, half of them mirrored.

    Every epoch takes every file once, in an order of its own. The square spans the shorter side of the picture; smaller
    pictures are enlarged. A file that cannot be decoded is listed, and the next one of the epoch's order takes
    its place.

    Args:
        images, clips: the files of each kind, or none.
        device: where batches are wanted.
        seed: of the crops.
        ranks: the processes that share every batch.
        workers: processes that decode; 0 decodes in this one.
        fps: frames per second of clips; as recorded if None.

    Raises:
        TrainingError: a rate or number of workers that cannot be.
    """

    def __init__(
        self,
        images: Source | None,
        clips: Source | None,
        device: torch.device,
        seed: int,
        ranks: Ranks | None = None,
        workers: int = 0,
        fps: float | None = None,
    ) -> None:
        if workers < 0 or (fps is not None and not 0 < fps < float("inf")):
            raise TrainingError(f"Files cannot be decoded by {workers} workers at {fps} frames per second.")
        self._sources: dict[Kind, Source] = {source.kind: source for source in (images, clips) if source is not None}
        self._device, self._ranks, self._workers = device, ranks or Ranks(), workers
        self._specs = _Specs()
        decoder = Decoder(self._sources, seed, self._ranks.rank, self._ranks.world, fps)
        self._loader: DataLoader[Decoded] | None = DataLoader(
            decoder,
            batch_size=None,  # an index is a whole BatchSpec, and its item a whole batch
            sampler=self._specs,
            collate_fn=_identity,
            num_workers=workers,
            worker_init_fn=_begin_worker,
            prefetch_factor=PREFETCH_FACTOR if workers else None,
            persistent_workers=workers > 0,
            pin_memory=device.type == "cuda",
            multiprocessing_context=_forkserver() if workers else None,
        )
        self._running: Generator[Tensor, None, None] | None = None
        self._totals = _Totals(
            broken={place: why for source in self._sources.values() for place, why in source.damaged}
        )

    def check(self, spec: BatchSpec) -> None:
        """Refuse a batch of a kind that has no files, as `Loader.check` does."""
        spec.share(self._ranks.rank, self._ranks.world)
        if spec.kind not in self._sources:
            raise TrainingError(f"The data holds no {spec.kind}, only {' and '.join(self._sources) or 'nothing'}.")

    def stream(self, specs: Iterable[BatchSpec]) -> Iterator[Tensor]:
        """Yield this rank's share of each batch, as `Loader.stream` does.

        Raises:
            TrainingError: as `check`; no file of a kind can be read; or the loader is closed.
        """
        if self._loader is None:
            raise TrainingError("The loader is closed.")
        if self._running is not None:
            self._running.close()
        self._specs.specs = self._checked(specs)
        self._running = self._stream(self._loader)
        return self._running

    def _checked(self, specs: Iterable[BatchSpec]) -> Iterator[BatchSpec]:
        for spec in specs:
            self.check(spec)
            yield spec

    def _stream(self, loader: DataLoader[Decoded]) -> Generator[Tensor, None, None]:
        asked = time.perf_counter()
        for batch in loader:
            self._totals.waited += time.perf_counter() - asked
            self._totals.add(batch)
            if batch.failure:
                raise TrainingError(batch.failure)
            yield batch.pixels.to(self._device, non_blocking=True)
            asked = time.perf_counter()

    def close(self) -> None:
        """Stop the workers; the loader is not used afterwards."""
        if self._running is not None:
            self._running.close()
        workers = getattr(self._loader, "_iterator", None)
        if workers is not None:
            # dropping the last reference would do the same, but an exception on its way may hold one
            workers._shutdown_workers()
        self._loader = self._running = None

    def report(self) -> dict[str, Any]:
        """Return the report so far, JSON-ready.

        `broken` lists files and shards that failed, each with its first reason; `skipped` counts how often a file was
        replaced; for each kind there are the number of files, the items made, and items per second of one worker;
        `waited_seconds` is how long the trainer waited for data.
        """
        totals = self._totals
        kinds: dict[str, Any] = {
            kind: {
                "files": len(source),
                "made": totals.made[kind],
                "per_second_and_worker": round(totals.made[kind] / max(totals.seconds[kind], 1e-9), 1),
            }
            for kind, source in self._sources.items()
        }
        broken = [{"file": place, "reason": reason} for place, reason in sorted(totals.broken.items())]
        return {
            **kinds,
            "broken": broken,
            "skipped": totals.skipped,
            "workers": self._workers,
            "waited_seconds": round(totals.waited, 3),
        }

    def describe(self) -> list[str]:
        """Return lines on items and their rates, on the time waited for data, and on broken files."""
        totals, lines = self._totals, []
        for kind, source in self._sources.items():
            made, rate = totals.made[kind], totals.made[kind] / max(totals.seconds[kind], 1e-9)
            lines.append(f"data: {len(source):,} {kind}, read {made:,} times, {rate:,.1f} a second by each process")
        lines.append(f"data: training waited {totals.waited:.1f} s for it")
        broken = sorted(totals.broken.items())
        lines += [f"skipped {place}: {reason}" for place, reason in broken[:MAX_BROKEN_SHOWN]]
        if len(broken) > MAX_BROKEN_SHOWN:
            lines.append(f"and {len(broken) - MAX_BROKEN_SHOWN} broken files more: `omnitok data inspect` lists them")
        return lines


class Decoded(NamedTuple):
    """A batch that a worker decoded.

    Args:
        kind: of the batch.
        pixels: uint8 (items, frames, side, side, 3).
        seconds: that it took.
        broken: places of files that failed, each with a reason.
        failure: why there are no pixels, or empty.
    """

    kind: Kind
    pixels: Tensor
    seconds: float
    broken: list[tuple[str, str]]
    failure: str


class Decoder(Dataset[Decoded]):
    """Makes one rank's share of a batch, in whichever process it is asked to."""

    def __init__(self, sources: dict[Kind, Source], seed: int, rank: int, ranks: int, fps: float | None) -> None:
        self.sources, self.seed, self.rank, self.ranks, self.fps = sources, seed, rank, ranks, fps

    def __getitem__(self, spec: BatchSpec) -> Decoded:
        started = time.perf_counter()
        share = spec.share(self.rank, self.ranks)
        pixels = torch.empty(len(share), spec.frames, spec.side, spec.side, 3, dtype=torch.uint8)
        broken: list[tuple[str, str]] = []
        for made, number, numbers in zip(
            pixels.numpy(), share, item_uniforms(self.seed, spec.kind, share), strict=True
        ):
            failure = self._fill(made, spec, number, numbers, broken)
            if failure:
                return Decoded(spec.kind, pixels[:0], 0.0, broken, failure)
        return Decoded(spec.kind, pixels, time.perf_counter() - started, broken, "")

    def _fill(
        self,
        made: NDArray[np.uint8],
        spec: BatchSpec,
        number: int,
        numbers: NDArray[np.float64],
        broken: list[tuple[str, str]],
    ) -> str:
        """Make one item in place, of its file or of the first after it in its epoch that can be decoded."""
        source = self.sources[spec.kind]
        reason, place = "", number % len(source)
        for after in range(len(source)):
            turn = number - place + (place + after) % len(source)
            index = int(epoch_order(self.seed, spec.kind, len(source), range(turn, turn + 1))[0])
            try:
                made[:] = decode(source, index, spec.side, spec.frames, self.fps, numbers)
                return ""
            except Exception as error:  # damaged media fail in every way that there is
                reason = one_line(error)
                broken.append((source.place(index), reason))
        return f"None of the {len(source)} {spec.kind} below {source.root} can be read; the last one: {reason}"


def decode(
    source: Source, index: int, side: int, frames: int, fps: float | None, numbers: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """Decode one file to uint8 (frames, side, side, 3).

    Args:
        source, index: the file.
        side, frames, fps: of what is made.
        numbers: in [0, 1), which decide on place, time and mirroring.

    Raises:
        Exception: many kinds, for files that are damaged, gone, or not what their names say.
    """
    made = source.read(index, side, frames, SampleWindow(numbers[PLACE], numbers[TIME], fps)).pixels
    return made[:, :, ::-1] if numbers[FLIP] < 0.5 else made


@dataclass
class _Totals:
    """Totals over the batches so far."""

    made: Counter[Kind] = field(default_factory=Counter)
    seconds: dict[Kind, float] = field(default_factory=lambda: {"images": 0.0, "clips": 0.0})
    broken: dict[str, str] = field(default_factory=dict)
    skipped: int = 0
    waited: float = 0.0

    def add(self, batch: Decoded) -> None:
        self.made[batch.kind] += len(batch.pixels)
        self.seconds[batch.kind] += batch.seconds
        self.skipped += len(batch.broken)
        for place, reason in batch.broken:
            self.broken.setdefault(place, reason)


class _Specs:
    """The batches of the stream that runs, as the sampler of a `DataLoader` that outlives it."""

    specs: Iterable[BatchSpec] = ()

    def __iter__(self) -> Iterator[BatchSpec]:
        return iter(self.specs)


def _identity(batch: Any) -> Any:
    return batch


def _forkserver() -> BaseContext:
    """Return a context whose workers fork from a process without CUDA or threads, with the imports done."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _begin_worker(_: int) -> None:
    """Ignore Ctrl-C, which is for the trainer, and warnings of odd metadata."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore")
