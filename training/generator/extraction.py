"""Extraction: pictures and clips of a folder encoded once with a tokenizer, shard by shard, resumable."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from media.kinds import KINDS, Kind
from model.bundle import Bundle
from model.codes.info import (
    INFO_FILE,
    SUFFIXES,
    CodesInfo,
    EncodingOptions,
    read_info,
    shard_name,
    write_info,
)
from model.codes.rows import Rows
from model.codes.writer import complete, done_record, failed_record, read_manifest, write_manifest, write_shard
from model.tokenizer.config import VQConfig
from training.devices import cores
from training.distributed import Ranks
from training.errors import TrainingError, one_line
from training.generator.code_set import CodeSet, ExtractionOptions
from training.generator.encoded import open_encoded_codes
from training.generator.items import Items, find_items

SHARD_ITEMS: dict[Kind, int] = {"images": 1024, "clips": 128}
PIXELS_AT_ONCE = {"cpu": 1 << 20, "cuda": 1 << 25}
MAX_UINT16 = 2**16


def extract(
    bundle: Bundle,
    data: Path,
    out: Path,
    options: ExtractionOptions,
    ranks: Ranks | None = None,
    console: Console | None = None,
) -> CodeSet:
    """Encode a folder of data; shards that are there are kept, so that a stopped extraction goes on where it was.

    The content of all items is read and compared with what those shards were made of.

    Args:
        bundle: the tokenizer, on the device that encodes.
        data: as for `find_items`.
        out: folder of the codes.
        options: the pixels that are encoded.
        ranks: processes that share the shards.
        console: for progress.

    Returns:
        The codes, opened.

    Raises:
        TrainingError: there is no data, `out` holds codes of another tokenizer, options or data, or every item of a
            shard is broken, but for a shorter last one.
        CodesError: an option is out of its range, or `out` holds codes of another format.
    """
    ranks = ranks or Ranks()
    console = console or Console(stderr=True, quiet=not ranks.is_main)
    sources, classes = find_items(data, options)
    info = _describe(bundle, sources, classes, options)
    ranks.barrier()  # until every rank has seen the folder as it was
    whole = _begin(out, info, ranks)
    ranks.barrier()
    shards = list(_shards(info))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("shards", total=len(shards))
        for number, (kind, name, items) in enumerate(shards):
            if number % ranks.world == ranks.rank:
                places = _places([source for source in sources if source.kind == kind], items)
                digests = _digests(places)
                if records := _written(out, info, name):
                    progress.update(bar, description=f"checking {kind}")
                    _check_content(name, records, places, digests)
                else:
                    progress.update(bar, description=f"encoding {kind}")
                    rows, records = _encode_items(bundle, name, places, items, digests, options, console)
                    write_shard(out, info, name, items, rows)
                    write_manifest(out, name, records)
            progress.advance(bar)
    ranks.barrier()
    if not whole and ranks.is_main:
        complete(out, info)
    ranks.barrier()
    codes = open_encoded_codes(out)
    if not whole:
        listed = ", ".join(f"{len(rows):,} {kind}" for kind, rows in codes.kinds.items())
        console.print(f"codes of {listed} and {len(classes):,} classes in {out}", highlight=False)
    return codes


def _begin(out: Path, info: CodesInfo, ranks: Ranks) -> bool:
    """Describe the codes in their folder; return whether all of them are there already."""
    if not (out / INFO_FILE).is_file():
        if ranks.is_main:
            write_info(out, info)
        return False
    found = read_info(out)
    if found.begun() != info:
        raise TrainingError(f"{out} holds codes of another tokenizer, options or data: choose another folder.")
    return found.rows is not None


def _shards(info: CodesInfo) -> Iterator[tuple[Kind, str, range]]:
    """Yield the kind, the name and the items of each shard."""
    for kind, count in info.items.items():
        for index, first in enumerate(range(0, count, SHARD_ITEMS[kind])):
            yield kind, shard_name(kind, index), range(first, min(first + SHARD_ITEMS[kind], count))


def _written(out: Path, info: CodesInfo, name: str) -> list[dict[str, Any]]:
    """Return the manifest of a shard that is there; nothing of another."""
    records = read_manifest(out, name)
    has_rows = any(record["rows"] for record in records)
    return records if not has_rows or (out / f"{name}{SUFFIXES[info.container]}").is_file() else []


def _describe(bundle: Bundle, sources: list[Items], classes: tuple[str, ...], options: ExtractionOptions) -> CodesInfo:
    config, counts = bundle.config, _counts(sources)
    return CodesInfo(
        tokenizer=bundle.name,
        tokenizer_hash=bundle.hash,
        dtype=str(next(bundle.tokenizer.parameters()).dtype).removeprefix("torch."),
        kind="tokens" if config.is_vq else "latents",
        size=config.head.codes if isinstance(config.head, VQConfig) else config.head.dim,
        patch=config.patch,
        temporal_patch=config.temporal_patch,
        causal=config.streams,
        options=EncodingOptions(
            options.side, options.side, "cover", options.frames, options.flips, options.views, options.fps, options.seed
        ),
        container="parquet",
        shard_items={kind: SHARD_ITEMS[kind] for kind in counts},
        source="; ".join(items.sentence for items in sources),
        classes=classes,
        items=counts,
    )


def _counts(sources: list[Items]) -> dict[Kind, int]:
    counts = {kind: sum(len(items) for items in sources if items.kind == kind) for kind in KINDS}
    return {kind: count for kind, count in counts.items() if count}


def _places(sources: list[Items], items: range) -> list[tuple[Items, int]]:
    """Return source and index of items by their number over all sources of a kind."""
    places: list[tuple[Items, int]] = []
    first = 0
    for source in sources:
        places += [(source, number - first) for number in items if first <= number < first + len(source)]
        first += len(source)
    return places


def _digests(places: list[tuple[Items, int]]) -> list[str]:
    """Return the hash of the content of each item, hexadecimal; none of one that cannot be read."""
    with ThreadPoolExecutor(min(8, cores())) as pool:
        return list(pool.map(lambda place: place[0].digest(place[1]).hex(), places))


def _check_content(
    name: str, records: list[dict[str, Any]], places: list[tuple[Items, int]], digests: list[str]
) -> None:
    now = [(digest, _label(*place)) for digest, place in zip(digests, places, strict=True)]
    if [(record["source_hash"], record["label"]) for record in records] != now:
        first, last = (source.place(index) for source, index in (places[0], places[-1]))
        raise TrainingError(
            f"{name} holds codes of other data than {first} to {last} have now: choose another folder, or delete it."
        )


def _encode_items(
    bundle: Bundle,
    name: str,
    places: list[tuple[Items, int]],
    items: range,
    digests: list[str],
    options: ExtractionOptions,
    console: Console,
) -> tuple[Rows, list[dict[str, Any]]]:
    """Encode the items of a shard, given their numbers and hashes; return its rows and its manifest."""
    failures: dict[int, str] = {}
    codes: dict[int, NDArray[Any]] = {}
    device = next(bundle.tokenizer.parameters()).device
    for which, views in _read(places, options, device, failures):
        codes |= zip(which, np.split(_encode(bundle, views, options.flips, device), len(which)), strict=True)
    rows, records, flips = Rows(), [], 1 + options.flips
    for place, (source, index) in enumerate(places):
        key, label = source.key(index), _label(source, index)
        record = {"item": items[place], "key": key, "label": label, "shard": name, "bytes": -1, "stamp": 0}
        if place in failures:
            console.print(f"left out: {source.place(index)}: {failures[place]}", highlight=False, markup=False)
            record |= failed_record(failures[place], retry=False)
        else:
            own = codes[place]
            record |= done_record(len(own), own[0])
            for row, one in enumerate(own):
                rows.append(one, items[place], key, label, row // flips, bool(row % flips), digests[place], {})
        records.append(record | {"source_hash": digests[place]})
    kind = places[0][0].kind
    is_rest = items.start > 0 and len(places) < SHARD_ITEMS[kind]  # some broken files, rather than a disk that is gone
    if not len(rows) and not is_rest:
        raise TrainingError(f"None of {len(places)} {kind} can be read; the first: {failures[0]}")
    return rows, records


def _read(
    places: list[tuple[Items, int]],
    options: ExtractionOptions,
    device: torch.device,
    failures: dict[int, str],
) -> Iterator[tuple[list[int], NDArray[np.uint8]]]:
    """Yield places and views (N * views, T, side, side, 3) of items that fit in one batch."""

    def read(place: int) -> list[NDArray[np.uint8]]:
        source, index = places[place]
        try:
            return source.read(index, options)
        except Exception as error:  # damaged media fail in every way that there is
            failures[place] = one_line(error)
            return []

    frames = 1 if places[0][0].kind == "images" else options.frames
    size = max(1, PIXELS_AT_ONCE[device.type] // (options.side**2 * frames * options.views))
    with ThreadPoolExecutor(min(8, cores())) as pool:
        for start in range(0, len(places), size):
            part = range(start, min(start + size, len(places)))
            views = dict(zip(part, pool.map(read, part), strict=True))
            # Sets too small for views give one, and a batch has the same number of each item.
            for count in sorted({len(found) for found in views.values() if found}):
                which = [place for place in part if len(views[place]) == count]
                yield which, np.stack([view for place in which for view in views[place]])


def _label(source: Items, index: int) -> int:
    return source.labels[index] if source.classes else -1


@torch.inference_mode()
def _encode(bundle: Bundle, views: NDArray[np.uint8], flips: bool, device: torch.device) -> NDArray[Any]:
    """Encode views, each followed by its mirror image: (N, t, h, w) tokens, or (N, t, h, w, c) latents."""
    on_device = torch.from_numpy(views).to(device)
    both = [on_device, on_device.flip(3)] if flips else [on_device]
    codes = torch.stack([bundle.tokenizer.encode(part) for part in both], dim=1).flatten(0, 1).cpu()
    if codes.is_floating_point():
        return codes.half().numpy()
    head = bundle.config.head
    assert isinstance(head, VQConfig)
    return codes.numpy().astype(np.uint16 if head.codes <= MAX_UINT16 else np.int32)
