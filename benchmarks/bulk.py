"""`python -m benchmarks.bulk`: a data set to shards of tokens, against its readers alone and the engine alone."""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.measure import describe_machine
from media.kinds import Kind
from media.write import encode_video
from model.bundle import save_bundle
from model.codes.info import Container, EncodingOptions
from model.tokenizer.config import CONFIGS
from model.tokenizer.tokenizer import OmniTokenizer
from service.bulk.batches import pixels_of
from service.bulk.decoder import Read
from service.bulk.encoder import SHARDS_AT_ONCE, ShardEncoder, Workplace
from service.bulk.executors import workplace_of
from service.bulk.job import Job, Request
from service.bulk.plan import Shard

PHOTO = Path(__file__).parents[1] / "docs" / "samples" / "igloo.jpg"
SIZES = ((375, 500), (375, 500), (375, 500), (500, 375), (333, 500))  # as in ImageNet, most are landscapes
NOISE = 14  # grey levels; a photograph of ImageNet has 110 KB
CLIP_FRAMES, CLIP_SIDE = 17, 256
DISTINCT = {"images": 512, "clips": 32}
SHARD_ITEMS: dict[Kind, int] = {"images": 1024, "clips": 128}
CPU_FRACTION = 8  # of a GPU's shards
TAR_ITEMS = {"images": 1024, "clips": 256}

app = typer.Typer(help=__doc__, pretty_exceptions_enable=False, add_completion=False)


@dataclass(frozen=True)
class Rates:
    """Items a second: of the readers alone, the engine alone, and both together; and where the time goes.

    Args:
        read, engine, together: items a second.
        reader_ms, host_ms: CPU time of the readers and of this process, milliseconds an item.
        engine_ms: CPU time of this process with the engine alone, milliseconds an item.
        busy: share of the time in which the device had work.
    """

    read: float
    engine: float
    together: float
    reader_ms: float
    host_ms: float
    engine_ms: float
    busy: float


@app.command()
def main(
    config: Annotated[str, typer.Option(help=f"One of {', '.join(CONFIGS)}.")] = "published",
    side: Annotated[int, typer.Option(help="Pixels of the squares.")] = 256,
    images: Annotated[int, typer.Option(help="Pictures of 500x375 pixels.")] = 32768,
    clips: Annotated[int, typer.Option(help="H.264 clips of 17x256x256.")] = 2048,
    readers: Annotated[int | None, typer.Option(help="Processes; as the command chooses by default.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Where the data go; a temporary folder by default.")] = None,
    ray: Annotated[bool, typer.Option("--ray", help="Run once more through Ray Data.")] = False,
) -> None:
    """Print rates, shares of the slower of both parts, and milliseconds of CPU an item."""
    console = Console(highlight=False, width=140)
    console.print(describe_machine())
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    place = workplace_of(device, None, len(os.sched_getaffinity(0)))
    place = replace(place, readers=readers or place.readers)
    table = Table("items", "resized by", "readers alone/s", "engine alone/s", "together/s", "of the slower",
                  "CPU ms: readers", "host", "engine alone", "device busy")  # fmt: skip
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        bundle = Path(temporary) / "random"
        save_bundle(bundle, OmniTokenizer(CONFIGS[config]).eval(), "Random weights.")
        kinds: list[tuple[Kind, int]] = [("images", images), ("clips", clips)]
        for kind, count in kinds:
            if not count:
                continue
            source = Path(temporary) / kind
            write_source(source, kind, count)
            resizers = (True, False) if kind == "images" and device == "cuda" else (False,)
            for on_device in resizers:
                dest = Path(temporary) / f"{kind}-{on_device}"
                found = measure(source, dest, bundle, kind, side, replace(place, device_resize=on_device))
                slower = min(found.read, found.engine)
                table.add_row(
                    f"{count:,} {kind}", "device" if on_device else "readers", f"{found.read:,.0f}",
                    f"{found.engine:,.0f}", f"{found.together:,.0f}", f"{found.together / slower:.0%}",
                    f"{found.reader_ms:.2f}", f"{found.host_ms:.3f}", f"{found.engine_ms:.3f}",
                    f"{found.busy:.0%}",
                )  # fmt: skip
            if ray:
                console.print(f"{kind} through Ray Data: {through_ray(source, bundle, kind, side):,.0f} items/s")
    console.print(f"{config}, {place.dtype} on {place.device}, {place.readers} readers, {place.threads} threads")
    console.print(table)


def measure(source: Path, dest: Path, bundle: Path, kind: Kind, side: int, place: Workplace) -> Rates:
    """Measure the readers, the engine and both on one data set."""
    frames = None if kind == "images" else CLIP_FRAMES
    container: Container = "parquet" if find_spec("pyarrow") else "tar"
    options = EncodingOptions(side, side, frames=frames)
    shard_items = SHARD_ITEMS[kind] if place.device == "cuda" else SHARD_ITEMS[kind] // CPU_FRACTION
    job = Job(Request(source, dest, bundle, options, container, shard_items=shard_items))
    dest.mkdir()
    encoder = ShardEncoder(bundle, dest, job.info(place), place)
    try:
        warm, *shards = job.shards if len(job.shards) > 1 else job.shards * 2
        encoder.encode(warm)
        items = sum(len(shard.items) for shard in shards)
        read = items / timed(lambda: read_all(encoder, shards))
        engine, engine_ms = engine_rate(encoder, warm)
        readers, host, busy = encoder.reader_seconds(), time.process_time(), encoder.busy_seconds()
        seconds = timed(lambda: encode_all(encoder, shards))
        return Rates(
            read, engine, items / seconds,
            1000 * (encoder.reader_seconds() - readers) / items, 1000 * (time.process_time() - host) / items, engine_ms,
            (encoder.busy_seconds() - busy) / seconds,
        )  # fmt: skip
    finally:
        encoder.close()


def read_all(encoder: ShardEncoder, shards: list[Shard]) -> None:
    """Read every item, and throw its pixels away."""

    def read(shard: Shard) -> None:
        for _, chunk in encoder.read(shard):
            chunk.release()

    with ThreadPoolExecutor(SHARDS_AT_ONCE) as threads:
        list(threads.map(read, shards))


def encode_all(encoder: ShardEncoder, shards: list[Shard]) -> None:
    """Encode and write every item."""
    with ThreadPoolExecutor(SHARDS_AT_ONCE) as threads:
        list(threads.map(encoder.encode, shards))


def engine_rate(encoder: ShardEncoder, shard: Shard, seconds: float = 3.0) -> tuple[float, float]:
    """Return the rate of batches that are in memory, two at a time, and CPU milliseconds an item."""
    (chunk,) = [chunk for _, chunk in zip(range(1), encoder.read(shard), strict=False)]
    _, read = chunk
    pixels = [pixels_of(view, flip=False) for item in read.items if isinstance(item, Read) for view in item.views]
    batch = encoder.batch_of(pixels[0])
    wanted = [pixels[index % len(pixels)] for index in range(batch)]
    launch = encoder.engine.launch
    launch(wanted)()
    flying = [launch(wanted), launch(wanted)]
    done, started, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - started < seconds:
        flying.append(launch(wanted))
        flying.pop(0)()
        done += batch
    rate, cost = done / (time.perf_counter() - started), 1000 * (time.process_time() - cpu) / done
    for fetch in flying:
        fetch()
    read.release()
    return rate, cost


def through_ray(source: Path, bundle: Path, kind: Kind, side: int) -> float:
    """Return the rate of the same work by Ray Data, its start left out."""
    from service.bulk.pipeline import ray_executor

    frames = None if kind == "images" else CLIP_FRAMES
    with tempfile.TemporaryDirectory() as dest, ray_executor(None, None, "auto", None) as executor:
        request = Request(source, Path(dest) / "codes", bundle, EncodingOptions(side, side, frames=frames))
        ends: list[tuple[float, int]] = []
        Job(replace(request, shard_items=SHARD_ITEMS[kind])).run(
            executor, report=lambda report: ends.append((time.perf_counter(), report.items))
        )
    (first, _), *others = ends
    return sum(items for _, items in others) / max(ends[-1][0] - first, 1e-9)


def timed(work: Callable[[], None]) -> float:
    """Return the seconds that work takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def write_source(folder: Path, kind: Kind, count: int) -> None:
    """Write tars of so many pictures or clips, some of which are equal."""
    folder.mkdir()
    with ThreadPoolExecutor() as threads:
        files = list(threads.map(photo if kind == "images" else clip, range(min(count, DISTINCT[kind]))))
    suffix, per_tar = (".jpg" if kind == "images" else ".mp4"), TAR_ITEMS[kind]
    for number, first in enumerate(range(0, count, per_tar)):
        with tarfile.open(folder / f"{number:05d}.tar", "w") as tar:
            for index in range(first, min(first + per_tar, count)):
                data = files[index % len(files)]
                for name, content in ((suffix, data), (".cls", str(index % 1000).encode())):
                    member = tarfile.TarInfo(f"{index:08d}{name}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


def photo(seed: int) -> bytes:
    """Return a JPEG of the size of ImageNet's, of a photograph with noise."""
    height, width = SIZES[seed % len(SIZES)]
    rng = np.random.default_rng(seed)
    with Image.open(PHOTO) as image:
        scaled = image.convert("RGB").resize((640, 640))
    top, left = rng.integers(0, 640 - height), rng.integers(0, 640 - width)
    pixels = np.asarray(scaled)[top : top + height, left : left + width].astype(np.int16)
    noisy = pixels + rng.integers(-NOISE, NOISE + 1, (height, width, 1), np.int16)
    file = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=92)
    return file.getvalue()


def clip(seed: int) -> bytes:
    """Return an H.264 clip of a photograph that moves."""
    rng = np.random.default_rng(seed)
    with Image.open(PHOTO) as image:
        scaled = np.asarray(image.convert("RGB").resize((400, 400)))
    top, left = rng.integers(0, 100, 2)
    return encode_video(np.stack(list(_moving(scaled, int(top), int(left)))), "video/mp4", 25.0)


def _moving(pixels: NDArray[np.uint8], top: int, left: int) -> Iterator[NDArray[np.uint8]]:
    for frame in range(CLIP_FRAMES):
        yield pixels[top + 2 * frame : top + 2 * frame + CLIP_SIDE, left + frame : left + frame + CLIP_SIDE]


if __name__ == "__main__":
    app()
