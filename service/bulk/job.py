"""One run: what it will encode, what is done already, and how it ends."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from media.kinds import KINDS, Kind
from model.bundle_header import read_tokenizer
from model.codes.info import (
    SUFFIXES,
    CodesError,
    CodesInfo,
    Container,
    EncodingOptions,
    is_encoded,
    read_info,
)
from model.codes.writer import complete
from model.tokenizer.config import VQConfig
from service.bulk import destination
from service.bulk.errors import BulkError
from service.bulk.executors import Executor, Report, Workplace, workplace_of
from service.bulk.plan import Shard, is_done, plan_shards, write_quarantine
from service.bulk.sources import Listing, list_source

if TYPE_CHECKING:
    from service.bulk.encoder import ShardEncoder

SHARD_ITEMS: dict[Kind, int] = {"images": 1024, "clips": 128}
VIDEO_SHARD_ITEMS = 16
SAMPLE_SECONDS, SAMPLE_ITEMS, WARM_ITEMS = 10.0, 2048, 8


@dataclass(frozen=True)
class Request:
    """The wishes of the caller.

    Args:
        source: folder, tar, Parquet file or list.
        dest: folder of the data set.
        bundle: folder of the tokenizer.
        options: the pixels to encode.
        container: form of the shards.
        want: tokens or latents; None for what the bundle is made for.
        kinds: of items to encode.
        shard_items: items of a shard; None for 1,024 images, 128 clips or 16 whole clips.
        replace_source: the data set may be one of another source, or of many more items, whose shards are deleted.
    """

    source: Path
    dest: Path
    bundle: Path
    options: EncodingOptions
    container: Container = "parquet"
    want: Literal["tokens", "latents"] | None = None
    kinds: tuple[Kind, ...] = KINDS
    shard_items: int | None = None
    replace_source: bool = False


@dataclass(frozen=True)
class Outcome:
    """A run that has ended.

    Args:
        info: of the data set.
        items: number in the source.
        kept: items of shards that an earlier run had done.
        failed: items in the quarantine list, and damaged tars.
        seconds: of the encoding, from when a tokenizer was ready.
    """

    info: CodesInfo
    items: int
    kept: int
    failed: int
    seconds: float


@dataclass(frozen=True)
class Estimate:
    """The time and space that a run will take, measured on a sample.

    Args:
        items: to encode.
        rate: items a second of all tokenizers.
        seconds, bytes: of the whole run.
        failed: share of the sample that cannot be read.
    """

    items: int
    rate: float
    seconds: float
    bytes: float
    failed: float


class Job:
    """A run that has looked at its source.

    Args:
        request: what is wanted.

    Raises:
        BulkError: the source, the bundle or the options do not fit together.
        BundleError: the bundle cannot be read.
    """

    def __init__(self, request: Request) -> None:
        _check(request)
        self._request = request
        self.listing = _chosen(list_source(request.source), request)
        self._bundle = read_tokenizer(request.bundle)
        self._config = self._bundle.config
        self._check_bundle()
        self._shard_items = {kind: self._items_of_shard(kind) for kind in self.listing.items}
        self.shards = plan_shards(self.listing, self._shard_items)

    @property
    def items(self) -> int:
        """Return the number of items."""
        return sum(map(len, self.listing.items.values()))

    def run(
        self,
        executor: Executor,
        begun: Callable[[int, int, Executor], None] = lambda items, kept, executor: None,
        report: Callable[[Report], None] = lambda report: None,
    ) -> Outcome:
        """Encode what is not done yet.

        Args:
            executor: does it.
            begun: called with the number of items, and of those that are done.
            report: called for each shard.

        Raises:
            BulkError: the destination holds something else, or a tokenizer failed.
        """
        dest, info = self._request.dest, self.info(executor.workplace)
        with destination.owned(dest):
            destination.begin(dest, info, self.shards, self._request.replace_source)
            missing = [shard for shard in self.shards if not is_done(dest, shard, info)]
            kept = self.items - sum(len(shard.items) for shard in missing)
            begun(self.items, kept, executor)
            seconds = 0.0

            def note(shard: Report) -> None:
                nonlocal seconds
                seconds = max(seconds, shard.seconds)
                report(shard)

            if missing:
                executor.run(self._request.bundle, dest, info, missing, note)
            return self._end(info, kept, seconds)

    def finished(self, device: str, dtype: str | None) -> Outcome | None:
        """Return the outcome if earlier runs have done everything; None where a tokenizer is needed, or `run` refuses.

        Args:
            device: "auto", "cpu" or "cuda"; the first takes the precision of what is there for its own.
            dtype: precision; None for the device's usual one.

        Raises:
            BulkError: another run works there.
        """
        dest = self._request.dest
        if not is_encoded(dest):
            return None
        try:
            found = read_info(dest)
        except CodesError:
            return None
        info = self.info(workplace_of(device, dtype or (found.dtype if device == "auto" else None), 1))
        if found.begun() != info:
            return None
        with destination.owned(dest):
            if not all(is_done(dest, shard, info) for shard in self.shards):
                return None
            destination.begin(dest, info, self.shards, self._request.replace_source)
            return self._end(info, self.items, 0.0)

    def estimate(self, place: Workplace, tokenizers: int) -> Estimate:
        """Encode a sample in this process, in a folder that is deleted; return what the whole run will take.

        Args:
            place: of each tokenizer.
            tokenizers: of the whole run.
        """
        with _encoder(self._request.bundle, self.info(place), place) as (encoder, folder):
            done, failed, seconds = 0, 0, 0.0
            for number, shard in enumerate(self._samples()):
                started = time.perf_counter()
                found = encoder.encode(shard)
                if number >= len(self.listing.items):  # the first of each kind pays for what is loaded once
                    seconds += time.perf_counter() - started
                    done, failed = done + found.items, failed + found.failed
                if seconds > SAMPLE_SECONDS:
                    break
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        rate = tokenizers * done / max(seconds, 1e-9)
        each = size / (done + WARM_ITEMS)
        return Estimate(self.items, rate, self.items / rate, each * self.items, failed / done)

    def info(self, place: Workplace) -> CodesInfo:
        """Return the description of the data set before any shard is written.

        Raises:
            BulkError: the options ask for what the device lacks.
        """
        config, request = self._config, self._request
        if request.options.jpeg == "gpu" and place.device == "cpu":
            raise BulkError("Only a GPU has engines for JPEGs, and none is used here. Use --jpeg cpu.")
        return CodesInfo(
            tokenizer=self._bundle.name,
            tokenizer_hash=self._bundle.hash,
            dtype=place.dtype,
            kind=self._want,
            size=config.head.codes if self._want == "tokens" and isinstance(config.head, VQConfig) else config.head.dim,
            patch=config.patch,
            temporal_patch=config.temporal_patch,
            causal=config.streams,
            options=request.options,
            container=request.container,
            shard_items=self._shard_items,
            source=self.listing.sentence,
            classes=self.listing.classes,
            items={kind: len(items) for kind, items in self.listing.items.items()},
        )

    def _end(self, info: CodesInfo, kept: int, seconds: float) -> Outcome:
        failed = write_quarantine(self._request.dest, self.shards, self.listing.damaged)
        return Outcome(complete(self._request.dest, info), self.items, kept, failed, seconds)

    def _samples(self) -> Iterator[Shard]:
        """Yield items from all over the source, in small shards of one kind in the proportion of the kinds."""
        for kind, items in self.listing.items.items():
            yield Shard(kind, 0, 0, items[:WARM_ITEMS])
        for kind, items in self.listing.items.items():
            count = max(1, min(len(items), SAMPLE_ITEMS * len(items) // self.items))
            spread = [items[place * len(items) // count] for place in range(count)]
            size = min(self._shard_items[kind], 128)
            for index, first in enumerate(range(0, count, size)):
                yield Shard(kind, 1 + index, first, spread[first : first + size])

    @property
    def _want(self) -> Literal["tokens", "latents"]:
        return self._request.want or ("tokens" if self._config.is_vq else "latents")

    def _items_of_shard(self, kind: Kind) -> int:
        whole = kind == "clips" and self._request.options.frames is None
        return self._request.shard_items or (VIDEO_SHARD_ITEMS if whole else SHARD_ITEMS[kind])

    def _check_bundle(self) -> None:
        if self._want == "tokens" and not self._config.is_vq:
            raise BulkError(f"{self._request.bundle} is a VAE, which has no tokens. Use --output latents.")
        if "clips" not in self.listing.items or self._request.options.frames is not None:
            return
        own = "tokens" if self._config.is_vq else "latents"
        if not self._config.streams or self._want != own:
            raise BulkError(
                f"{self._request.bundle} encodes clips of any length to {own}, and only if it is causal in time. "
                "Give the number of --frames."
            )
        if self._request.options.repeats > 1:
            raise BulkError("Clips of any length have one view. Give --frames, or leave out --views and --flips.")


def _check(request: Request) -> None:
    if request.container not in SUFFIXES:
        raise BulkError(f"The form {request.container!r} must be one of {', '.join(SUFFIXES)}.")
    if request.shard_items is not None and request.shard_items < 1:
        raise BulkError(f"A shard of {request.shard_items} items must have at least 1.")
    source, dest = request.source.resolve(), request.dest.resolve()
    if source.is_dir() and (dest == source or source in dest.parents):
        raise BulkError(f"{request.dest} is inside {request.source}, so a later run would read its own output.")


def _chosen(listing: Listing, request: Request) -> Listing:
    items = {kind: found for kind, found in listing.items.items() if kind in request.kinds}
    if not items:
        raise BulkError(f"{request.source} holds {listing.sentence}, and none of {' and '.join(request.kinds)}.")
    if request.container == "npy":
        if len(items) > 1:
            raise BulkError(f"A tree of .npy holds one kind, and there are {listing.sentence}. Choose one with --kind.")
        if request.options.height is None or (request.options.frames is None and "clips" in items):
            raise BulkError("A tree of .npy says nothing of shapes. Give --size, and --frames for clips.")
    return replace(listing, items=items)


@contextmanager
def _encoder(bundle: Path, info: CodesInfo, place: Workplace) -> Iterator[tuple[ShardEncoder, Path]]:
    from service.bulk.encoder import ShardEncoder  # needs torch

    with tempfile.TemporaryDirectory(prefix="omnitok-sample-") as folder:
        encoder = ShardEncoder(bundle, Path(folder), info, place)
        try:
            yield encoder, Path(folder)
        finally:
            encoder.close()
