"""Extraction: pictures and clips of a folder encoded once with a tokenizer, shard by shard, resumable."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from media.kinds import KINDS, Kind
from model.bundle import Bundle
from model.tokenizer.config import VQConfig
from training.devices import cores
from training.distributed import Ranks
from training.errors import TrainingError, one_line
from training.generator.code_shards import (
    INFO_FILE,
    Codes,
    CodeSet,
    CodesInfo,
    ExtractionOptions,
    join,
    open_codes,
    read_content,
    read_info,
    read_shard,
    shard_path,
    write_info,
    write_shard,
)
from training.generator.items import Items, find_items

SHARD_ITEMS: dict[Kind, int] = {"images": 1024, "clips": 128}
PIXELS_AT_ONCE = {"cpu": 1 << 20, "cuda": 1 << 25}
MAX_INT16 = 2**15


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
            shard is broken.
    """
    ranks = ranks or Ranks()
    console = console or Console(stderr=True, quiet=not ranks.is_main)
    sources, classes = find_items(data, options)
    info = _describe(bundle, sources, classes, options)
    ranks.barrier()  # until every rank has seen the folder as it was
    whole = False
    if (out / INFO_FILE).is_file():
        found = read_info(out)
        whole = found.rows is not None
        if found.begun() != info:
            raise TrainingError(f"{out} holds codes of another tokenizer, options or data: choose another folder.")
    elif ranks.is_main:
        write_info(out, info)
    ranks.barrier()
    jobs = [
        (kind, index, range(first, min(first + SHARD_ITEMS[kind], count)))
        for kind, count in _counts(sources).items()
        for index, first in enumerate(range(0, count, SHARD_ITEMS[kind]))
    ]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("shards", total=len(jobs))
        for number, (kind, index, items) in enumerate(jobs):
            path = shard_path(out, kind, index)
            if number % ranks.world == ranks.rank:
                places = _places([source for source in sources if source.kind == kind], items)
                content = _content(places)
                if path.is_file():
                    progress.update(bar, description=f"checking {kind}")
                    _check_content(path, content, places)
                else:
                    progress.update(bar, description=f"encoding {kind}")
                    write_shard(path, _encode_items(bundle, places, items, options, console), content)
            progress.advance(bar)
    ranks.barrier()
    if whole:
        return open_codes(out)
    if ranks.is_main:
        write_info(out, _measure(info, out))
    ranks.barrier()
    codes = open_codes(out)
    listed = ", ".join(f"{len(rows):,} {kind}" for kind, rows in codes.kinds.items())
    console.print(f"codes of {listed} and {len(classes):,} classes in {out}", highlight=False)
    return codes


def _describe(bundle: Bundle, sources: list[Items], classes: tuple[str, ...], options: ExtractionOptions) -> CodesInfo:
    config = bundle.config
    return CodesInfo(
        tokenizer=bundle.name,
        tokenizer_hash=bundle.hash,
        kind="tokens" if config.is_vq else "latents",
        size=config.head.codes if isinstance(config.head, VQConfig) else config.head.dim,
        patch=config.patch,
        temporal_patch=config.temporal_patch,
        causal=config.streams,
        options=options,
        classes=classes,
        sources=tuple(items.sentence for items in sources),
    )


def _counts(sources: list[Items]) -> dict[Kind, int]:
    return {kind: sum(len(items) for items in sources if items.kind == kind) for kind in KINDS}


def _places(sources: list[Items], items: range) -> list[tuple[Items, int]]:
    """Return source and index of items by their number over all sources of a kind."""
    places: list[tuple[Items, int]] = []
    first = 0
    for source in sources:
        places += [(source, number - first) for number in items if first <= number < first + len(source)]
        first += len(source)
    return places


def _content(places: list[tuple[Items, int]]) -> str:
    """Return a hash of the bytes and labels of items."""

    def one(place: tuple[Items, int]) -> bytes:
        return place[0].digest(place[1]) + f" {_label(*place)} ".encode()

    with ThreadPoolExecutor(min(8, cores())) as pool:
        return hashlib.sha256(b"".join(pool.map(one, places))).hexdigest()


def _check_content(path: Path, content: str, places: list[tuple[Items, int]]) -> None:
    if read_content(path) != content:
        first, last = (source.place(index) for source, index in (places[0], places[-1]))
        raise TrainingError(
            f"{path} holds codes of other data than {first} to {last} have now: choose another folder, or delete it."
        )


def _encode_items(
    bundle: Bundle, places: list[tuple[Items, int]], items: range, options: ExtractionOptions, console: Console
) -> Codes:
    """Encode items, given their numbers too; those that cannot be read are named and left out."""
    failures: list[str] = []
    parts: list[Codes] = []
    device = next(bundle.tokenizer.parameters()).device
    for numbers, labels, views in _read(places, items, options, device, failures):
        pixels = torch.from_numpy(views)
        codes = _encode(bundle, pixels, options.flips, device)
        repeats = len(codes) // len(numbers)
        parts.append(Codes(codes, *(torch.tensor(x).repeat_interleave(repeats) for x in (labels, numbers))))
    for failure in failures:
        console.print(f"left out: {failure}", highlight=False, markup=False)
    if not parts:
        raise TrainingError(f"None of {len(places)} {places[0][0].kind} can be read; the first: {failures[0]}")
    return join(parts)


def _read(
    places: list[tuple[Items, int]],
    items: range,
    options: ExtractionOptions,
    device: torch.device,
    failures: list[str],
) -> Iterator[tuple[list[int], list[int], NDArray[np.uint8]]]:
    """Yield numbers, labels and views (N * views, T, side, side, 3) of items that fit in one batch."""

    def read(place: tuple[Items, int]) -> list[NDArray[np.uint8]] | None:
        source, index = place
        try:
            return source.read(index, options)
        except Exception as error:  # damaged media fail in every way that there is
            failures.append(f"{source.place(index)}: {one_line(error)}")
            return None

    frames = 1 if places[0][0].kind == "images" else options.frames
    size = max(1, PIXELS_AT_ONCE[device.type] // (options.side**2 * frames * options.views))
    with ThreadPoolExecutor(min(8, cores())) as pool:
        for start in range(0, len(places), size):
            part = places[start : start + size]
            views = list(pool.map(read, part))
            # sets too small for views give one, so that batches are of one source
            for count in sorted({len(one) for one in views if one}):
                which = [place for place, one in enumerate(views) if one and len(one) == count]
                labels = [_label(*part[place]) for place in which]
                pixels = np.stack([view for place in which for view in views[place] or ()])
                yield [items[start + place] for place in which], labels, pixels


def _label(source: Items, index: int) -> int:
    return source.labels[index] if source.classes else -1


@torch.inference_mode()
def _encode(bundle: Bundle, pixels: Tensor, flips: bool, device: torch.device) -> Tensor:
    """Encode views, each followed by its mirror image: (N, t, h, w) tokens, or (N, t, h, w, c) latents."""
    on_device = pixels.to(device)
    both = [on_device, on_device.flip(3)] if flips else [on_device]
    codes = torch.stack([bundle.tokenizer.encode(part) for part in both], dim=1).flatten(0, 1).cpu()
    if codes.is_floating_point():
        return codes.half()
    head = bundle.config.head
    assert isinstance(head, VQConfig)
    return codes.to(torch.int16 if head.codes <= MAX_INT16 else torch.int32)


def _measure(info: CodesInfo, out: Path) -> CodesInfo:
    """Return the description with the rows of each kind, and the moments of the channels of latents."""
    rows: dict[Kind, int] = {}
    sums = torch.zeros(3, info.size, dtype=torch.float64) if info.kind == "latents" else None
    for kind in KINDS:
        paths = sorted(out.glob(f"{kind}-*.safetensors"))
        for path in paths:
            shard = read_shard(path)
            rows[kind] = rows.get(kind, 0) + len(shard)
            if sums is not None:
                flat = shard.codes.flatten(0, -2).double()
                sums += torch.stack([torch.full_like(sums[0], len(flat)), flat.sum(0), flat.square().sum(0)])
    if sums is None:
        return replace(info, rows=rows)
    mean = sums[1] / sums[0]
    std = (sums[2] / sums[0] - mean.square()).clamp_min(0).sqrt()
    return replace(info, rows=rows, mean=tuple(mean.tolist()), std=tuple(std.tolist()))
