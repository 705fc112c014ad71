"""JPEGs decoded on a GPU: rates by backend and batch, and how far pixels and codes are from the CPU's decoder."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from media.jpeg import SCAN, decode_jpeg
from model.codes.info import EncodingOptions
from service.bulk.batches import UNDECODED, Pixels, SharedEngine, pixels_of
from service.bulk.encoder import SHARDS_AT_ONCE
from service.bulk.reading import read_bytes, read_views
from service.bulk.sources import Item
from service.engine.jpegs import CODECS, ENGINES, OPTIONS, JpegDecoder, NvImageCodec, SourceJpeg

BATCHES = (16, 64, 256)
COMPARED, COMPARED_AT_ONCE, DAMAGED = 256, 64, 64
Files = list[NDArray[np.uint8]]


class Variant(NamedTuple):
    """A way to decode on the GPU.

    Args:
        name: of the row.
        backend, options: of `NvImageCodec`.
        codecs: number of them.
    """

    name: str
    backend: str
    options: str
    codecs: int


# The first one is what `omnitok tokenize` uses.
VARIANTS = (
    Variant("engines", ENGINES, OPTIONS, CODECS),
    Variant("engines, one codec", ENGINES, OPTIONS, 1),
    Variant("engines, plain chroma", ENGINES, OPTIONS.replace("=1", "=0"), CODECS),
    Variant("hybrid", "HYBRID_CPU_GPU", OPTIONS, SHARDS_AT_ONCE),
)


def report(engine: SharedEngine, items: Sequence[Item], options: EncodingOptions, seconds: float) -> Iterator[str]:
    """Yield a line for each variant and batch, and for each comparison.

    Args:
        engine: with a decoder of JPEGs.
        items: JPEGs.
        options: that leave JPEGs to the GPU.
        seconds: of all rates together.
    """
    files: Files = [np.frombuffer(read_bytes(item), np.uint8) for item in items[: max(*BATCHES, COMPARED)]]
    cores = len(os.sched_getaffinity(0))
    for name, backend, settings, codecs in VARIANTS:
        try:
            threads = 1 if backend == ENGINES else max(1, cores // codecs)
            decoder = JpegDecoder(*(NvImageCodec(backend, threads, settings) for _ in range(codecs)))
            for batch in BATCHES:
                rate, cost = decoding_rate(decoder, files, batch, seconds / len(VARIANTS) / len(BATCHES))
                yield f"{name}, batches of {batch}: {rate:,.0f} JPEGs/s, {cost:.3f} ms of this process's CPU each"
            yield f"{name}: {pixel_difference(decoder, files)}"
            yield f"{name}: {damage(decoder, files[:DAMAGED])}"
        except RuntimeError as error:  # another variant may still work
            yield f"{name}: {error}"
    yield f"engines: {code_difference(engine, items[:COMPARED], options)}"


def apart(pixels: Pixels) -> Pixels:
    """Return a JPEG with bytes of its own, for those that share theirs are decoded once; other pixels as they are."""
    return pixels._replace(data=pixels.data.copy()) if isinstance(pixels, SourceJpeg) else pixels


def decoding_rate(decoder: JpegDecoder, files: Files, batch: int, seconds: float) -> tuple[float, float]:
    """Return JPEGs a second of as many threads as decode in `omnitok tokenize`, and CPU milliseconds a JPEG."""
    wanted = [files[place % len(files)] for place in range(batch)]
    for _ in range(SHARDS_AT_ONCE):
        decoder.pixels(wanted)
    started, cpu = time.perf_counter(), time.process_time()

    def decode(_: int) -> int:
        count = 0
        while time.perf_counter() - started < seconds:
            count += sum(pixels is not None for pixels in decoder.pixels(wanted))
        return count

    with ThreadPoolExecutor(SHARDS_AT_ONCE) as threads:
        done = sum(threads.map(decode, range(SHARDS_AT_ONCE)))
    return done / (time.perf_counter() - started), 1000 * (time.process_time() - cpu) / max(1, done)


def pixel_difference(decoder: JpegDecoder, files: Files) -> str:
    """Return how many values differ from the CPU's, and by how many levels."""
    differences, refused = [], 0
    for first in range(0, len(files), COMPARED_AT_ONCE):
        part = files[first : first + COMPARED_AT_ONCE]
        for data, pixels in zip(part, decoder.pixels(part), strict=True):
            wanted = decode_jpeg(data.tobytes())
            if pixels is None or wanted is None:
                refused += 1
                continue
            differences.append(np.abs(pixels.cpu().numpy().astype(np.int16) - wanted).ravel())
    if not differences:
        return f"{len(files)} JPEGs, all refused"
    found = np.concatenate(differences)
    beyond = ", ".join(f"over {levels} {(found > levels).mean():.2e}" for levels in (1, 2, 4, 8))
    return (
        f"{len(files)} JPEGs, {refused} refused: {(found > 0).mean():.1%} of the values differ from the CPU's, by "
        f"{found.mean():.3f} levels in the mean and {found.max()} at most; shares: {beyond}"
    )


def damage(decoder: JpegDecoder, files: Files) -> str:
    """Return what comes of JPEGs with a wrong byte in the scan, and whether they come out the same among others."""
    rng = np.random.default_rng(0)
    damaged = []
    for data in files:
        wrong = data.copy()
        scan = data.tobytes().rindex(bytes([0xFF, SCAN])) + 16
        wrong[scan + int(rng.integers(0, (len(data) - scan) // 2))] ^= 0x55
        damaged.append(wrong)
    first, again = decoder.pixels(damaged), decoder.pixels(damaged[::-1])[::-1]
    refused = sum(pixels is None for pixels in first)
    both = [(one, two) for one, two in zip(first, again, strict=True) if one is not None and two is not None]
    unlike = sum(not torch.equal(one, two) for one, two in both)
    whole = decoder.pixels(files)
    return (
        f"{len(files)} JPEGs with a wrong byte: {refused} refused, {unlike} come out otherwise among others; "
        f"{sum(pixels is None for pixels in whole)} whole ones refused afterwards"
    )


def code_difference(engine: SharedEngine, items: Sequence[Item], options: EncodingOptions) -> str:
    """Return the share of codes that the decoder of the JPEGs changes."""
    differing, total = 0, 0
    for first in range(0, len(items), COMPARED_AT_ONCE):
        part = items[first : first + COMPARED_AT_ONCE]
        ours, theirs = (_codes(engine, part, options, leave_jpegs) for leave_jpegs in (False, True))
        for one, two in zip(ours, theirs, strict=True):
            if two is not UNDECODED:
                differing, total = differing + int((one != two).sum()), total + one.size
    return f"{differing / max(1, total):.2%} of {total:,} codes differ from those of the CPU's decoder"


def _codes(engine: SharedEngine, items: Sequence[Item], options: EncodingOptions, leave_jpegs: bool) -> list[Any]:
    views = [read_views(item, "images", options, leave_resize=True, leave_jpegs=leave_jpegs)[1][0] for item in items]
    codes: list[Any] = list(engine.launch([pixels_of(view, flip=False) for view in views])())
    return codes
