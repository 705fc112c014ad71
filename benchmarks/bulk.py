"""`python -m benchmarks.bulk`: a data set to shards of tokens, against its readers alone and the engine alone."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import count, islice, product
from pathlib import Path
from threading import Lock
from typing import Annotated, Any, Literal

import torch
import typer
from rich.console import Console

from benchmarks.bulk_data import CLIP_FRAMES, write_source
from benchmarks.measure import describe_machine
from benchmarks.rows import RowFile
from media.kinds import KINDS, Kind
from model.bundle import save_bundle
from model.codes.info import EncodingOptions
from model.tokenizer.config import CONFIGS
from model.tokenizer.tokenizer import OmniTokenizer
from service.bulk.batches import Pixels, pixels_of
from service.bulk.decoder import Read
from service.bulk.encoder import ShardEncoder
from service.bulk.executors import Report, Workplace, workplace_of
from service.bulk.job import Job, Request
from service.bulk.plan import Shard
from service.engine.step_clock import DEVICE_STEPS, HOST_STEPS, Step, Total, busy_seconds

CPU_SHARD_ITEMS = 32  # or a part would end within one of the command's usual shards
RAY_SHARDS = 512  # more than a run gets to; each is a block of Ray Data, which takes 1 to 3 ms to make
CPU_COLUMN = "CPU ms an item: readers, this process, this process without readers"
RAY_READY_SECONDS = 240.0  # of all tokenizers, whose kernels may have to be compiled

DEVICE_COLUMN = f"device ms a batch: {', '.join(DEVICE_STEPS)}"
HOST_COLUMN = f"host ms a batch: {', '.join(HOST_STEPS)}"

Steps = dict[Step, Total]

app = typer.Typer(help=__doc__, pretty_exceptions_enable=False, add_completion=False)
console = Console(highlight=False, width=150)


@dataclass(frozen=True)
class Moment:
    """The counters of a run when a shard was done.

    Args:
        time: seconds.
        items: encoded so far.
        steps: of all batches so far.
        readers, host: CPU seconds so far, of the readers and of this process.
    """

    time: float
    items: int
    steps: Steps
    readers: float
    host: float


@app.command()
def main(
    config: Annotated[str, typer.Option(help=f"One of {', '.join(CONFIGS)}.")] = "published",
    side: Annotated[int, typer.Option(help="Pixels of the squares.")] = 256,
    kinds: Annotated[list[str] | None, typer.Option("--kind", help="images or clips; both by default.")] = None,
    images: Annotated[int, typer.Option(help="JPEGs of 500x375 pixels, which are encoded again and again.")] = 4096,
    clips: Annotated[int, typer.Option(help="H.264 clips of 17x256x256, likewise.")] = 512,
    seconds: Annotated[float, typer.Option(help="Of each part.")] = 5.0,
    readers: Annotated[int | None, typer.Option(help="Processes; as the command chooses by default.")] = None,
    resize: Annotated[Literal["device", "readers"], typer.Option(help="Where pictures are resized.")] = "device",
    jpeg: Annotated[Literal["cpu", "gpu"], typer.Option(help="What decodes JPEGs.")] = "cpu",
    gpus: Annotated[list[int] | None, typer.Option(help="By Ray Data on so many GPUs instead; repeatable.")] = None,
    raylets: Annotated[list[int] | None, typer.Option(help="By so many nodes of one CPU each; repeatable.")] = None,
    work: Annotated[Path | None, typer.Option(help="Folder of the data, kept for the next run.")] = None,
    out: Annotated[Path | None, typer.Option(help="File of the rows, JSON.")] = None,
) -> None:
    """Print rates of the parts and of the whole, its share of the slower part, and where the time goes."""
    for name, value, known in (("--config", config, CONFIGS), *(("--kind", kind, KINDS) for kind in kinds or ())):
        if value not in known:
            raise typer.BadParameter(f"{value!r} must be one of {', '.join(known)}.", param_hint=name)
    console.print(describe_machine())
    table = RowFile(out)
    counts: dict[Kind, int] = {"images": images, "clips": clips}
    chosen = [kind for kind in KINDS if kind in (kinds or KINDS)]
    with tempfile.TemporaryDirectory(prefix="omnitok-bulk-") as temporary:
        root, dest = work or Path(temporary), Path(temporary) / "codes"
        with phase("data and bundle"):
            for kind in chosen:
                write_source(root / "source", kind, counts[kind])
            torch.manual_seed(0)
            save_bundle(Path(temporary) / "random", OmniTokenizer(CONFIGS[config]).eval(), "Random weights.")
            options = EncodingOptions(side, side, frames=CLIP_FRAMES, jpeg=jpeg)
            request = Request(root / "source", dest, Path(temporary) / "random", options, kinds=tuple(chosen))
        dest.mkdir()
        present = torch.cuda.device_count()
        for number in gpus or ():
            if number > max(present, 1):
                raise typer.BadParameter(f"There are {present} GPUs, not {number}.", param_hint="--gpus")
            for kind in chosen:
                by_gpus(replace(request, kinds=(kind,)), number, present, seconds, table)
        for number, kind in product(raylets or (), chosen):
            with nodes(number) as address:
                by_ray(replace(request, kinds=(kind,)), seconds, address, 1, table)
        if gpus or raylets:
            return
        device = "cuda" if present else "cpu"
        place = workplace_of(device, None, len(os.sched_getaffinity(0)))
        place = replace(place, readers=readers or place.readers, device_resize=resize == "device")
        in_this_process(request, place, seconds, table)


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Print how long a part of the preparation takes."""
    started = time.perf_counter()
    yield
    console.print(f"{name}: {time.perf_counter() - started:.1f} s")


def in_this_process(request: Request, place: Workplace, seconds: float, table: RowFile) -> None:
    """Time the readers, the engine and both, one kind after the other."""
    job = planned(request, place.device)
    with phase(f"{place.readers} readers, and the engine in {place.dtype} on {place.device}"):
        encoder = ShardEncoder(request.bundle, request.dest, job.info(place), place)
    try:
        for kind in job.listing.items:
            encoder.encode(next(endless(job, kind)))
            read = reading_rate(encoder, endless(job, kind), seconds)
            with ThreadPoolExecutor(1) as thread:  # as shards have; OpenMP waits in another way in the first thread
                alone = thread.submit(engine_rate, encoder, next(endless(job, kind)), seconds).result()
            first, last = encode_for(encoder, endless(job, kind), seconds)
            items, passed = last.items - first.items, last.time - first.time
            cpu = last.readers - first.readers, last.host - first.host
            cores, milliseconds = (cpu[0] / passed, cpu[1] / passed), (1e3 * cpu[0] / items, 1e3 * cpu[1] / items)
            spent, share = since(first.steps, last.steps), items / passed / min(read, alone.rate)
            table.add(
                {
                    "items": kind,
                    "readers alone, 1/s": f"{read:,.0f}",
                    "engine alone, with its copies and resizing, 1/s": f"{alone.rate:,.0f}",
                    "together, 1/s": f"{items / passed:,.0f}",
                    "of the slower": f"{share:.0%}",
                    "device busy": f"{busy_seconds(spent) / passed:.0%}",
                    f"{DEVICE_COLUMN}; engine alone": f"{each(spent, DEVICE_STEPS)}; {each(alone.steps, DEVICE_STEPS)}",
                    f"{HOST_COLUMN}; engine alone": f"{each(spent, HOST_STEPS)}; {each(alone.steps, HOST_STEPS)}",
                    "cores: readers, this process": f"{cores[0]:.1f} of {place.readers}, {cores[1]:.1f}",
                    CPU_COLUMN: f"{milliseconds[0]:.3f}, {milliseconds[1]:.3f}, {alone.host_ms:.3f}",
                }
            )
    finally:
        encoder.close()


def planned(request: Request, device: str) -> Job:
    """Return the job, on a GPU in shards of the usual size."""
    return Job(replace(request, shard_items=None if device == "cuda" else CPU_SHARD_ITEMS))


def endless(job: Job, kind: Kind) -> Iterator[Shard]:
    """Return the shards of a kind over and over, under new numbers; several threads may take them."""
    shards = [shard for shard in job.shards if shard.kind == kind]
    return map(partial(_numbered, shards), count())


def _numbered(shards: list[Shard], number: int) -> Shard:
    return shards[number % len(shards)]._replace(number=number)


def reading_rate(encoder: ShardEncoder, shards: Iterator[Shard], seconds: float) -> float:
    """Return items read a second, whose pixels are thrown away."""
    threads = encoder.shards_at_once
    started, counted, last = time.perf_counter(), [0] * threads, [0.0] * threads

    def read(thread: int) -> None:
        while time.perf_counter() - started < seconds:
            for _, chunk in encoder.read(next(shards), encoder.leave_jpegs):
                passed = time.perf_counter() - started
                if passed < seconds or not counted[thread]:
                    counted[thread] += len(chunk.items)
                    last[thread] = passed
                chunk.release()

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(read, range(threads)))
    return sum(counted) / max(seconds, *last)


def encode_for(encoder: ShardEncoder, shards: Iterator[Shard], seconds: float) -> tuple[Moment, Moment]:
    """Encode and write shards for so long; return the counters when the first and the last one were done."""
    started = time.perf_counter()
    moments: list[Moment] = []
    threads = encoder.shards_at_once
    lock = Lock()

    def encode() -> None:
        while time.perf_counter() - started < seconds or len(moments) <= threads:
            report = encoder.encode(next(shards))
            with lock:
                items = report.items + (moments[-1].items if moments else 0)
                cpu = encoder.reader_seconds(), time.process_time()
                moments.append(Moment(time.perf_counter(), items, encoder.engine.engine.clock.totals(), *cpu))

    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(encode) for _ in range(threads)]:
            done.result()
    return moments[0], moments[-threads]  # the last ones had the device for themselves


@dataclass(frozen=True)
class EngineAlone:
    """The engine without readers: it stages pixels, copies them to the device, resizes, encodes and fetches the codes.

    Args:
        rate: items a second.
        host_ms: CPU milliseconds an item.
        steps: of its batches.
    """

    rate: float
    host_ms: float
    steps: Steps


def engine_rate(encoder: ShardEncoder, shard: Shard, seconds: float) -> EngineAlone:
    """Time batches as the run has them, whose pixels readers have put into memory; two are on the device at a time."""
    pixels: list[Pixels] = []
    chunks = []
    for _, chunk in encoder.read(shard):
        if pixels and len(pixels) >= encoder.batch_of(pixels[0]):
            chunk.release()
            continue
        views = [view for item in chunk.items if isinstance(item, Read) for view in item.views]
        pixels += [pixels_of(view, flip=False) for view in views]
        chunks.append(chunk)
    batch = encoder.batch_of(pixels[0])
    wanted = [pixels[index % len(pixels)] for index in range(batch)]
    launch, clock = encoder.engine.launch, encoder.engine.engine.clock
    launch(wanted)()
    before = clock.totals()
    flying = [launch(wanted), launch(wanted)]
    done, started, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - started < seconds:
        flying.append(launch(wanted))
        flying.pop(0)()
        done += batch
    rate, cost = done / (time.perf_counter() - started), 1000 * (time.process_time() - cpu) / done
    for fetch in flying:
        fetch()
    for chunk in chunks:
        chunk.release()
    return EngineAlone(rate, cost, since(before, clock.totals()))


def since(before: Steps, after: Steps) -> Steps:
    """Return what was added meanwhile."""
    return {
        step: Total(now.times - before[step].times, now.seconds - before[step].seconds) for step, now in after.items()
    }


def each(steps: Steps, names: Sequence[Step]) -> str:
    """Return milliseconds of some steps each time."""
    return ", ".join(f"{1000 * steps[name].seconds / max(1, steps[name].times):.2f}" for name in names)


class EnoughError(Exception):
    """The end of a run that has been measured."""


def by_gpus(request: Request, gpus: int, present: int, seconds: float, table: RowFile) -> None:
    """Print the rate of Ray Data's actors for one kind, one a GPU; on a CPU there is one.

    Args:
        request: of one kind.
        gpus: to use, each with its share of the CPUs.
        present: GPUs of this machine.
        seconds: to measure.
        table: of the rows.
    """
    if present:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, range(gpus)))
    by_ray(request, seconds, None, len(os.sched_getaffinity(0)) * gpus // max(present, 1), table)


@contextmanager
def nodes(number: int) -> Iterator[str]:
    """Start a cluster of nodes of one CPU each on this machine; yield its address."""
    from ray.cluster_utils import Cluster

    each: dict[str, Any] = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 256 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args=each)
    try:
        for _ in range(number - 1):
            cluster.add_node(**each)
        yield cluster.address
    finally:
        cluster.shutdown()


def by_ray(request: Request, seconds: float, address: str | None, cpus: int, table: RowFile) -> None:
    """Print the rate of Ray Data's actors for one kind.

    Args:
        request: of one kind.
        seconds: to measure.
        address, cpus: as of `ray_executor`.
        table: of the rows.
    """
    from service.bulk.pipeline import ray_executor

    started, (kind,) = time.perf_counter(), request.kinds
    with ray_executor(address, cpus, "auto", None) as executor:
        place, job = executor.workplace, planned(request, executor.workplace.device)
        shards, watch = list(islice(endless(job, kind), RAY_SHARDS)), Watch(executor.tokenizers, seconds)
        with suppress(EnoughError):
            executor.run(request.bundle, request.dest, job.info(place), shards, watch.report)
    table.add(
        {
            "items, by Ray Data": kind,
            "tokenizers": f"{executor.tokenizers} x {place.device}",
            "readers of each": str(place.readers),
            "items/s": f"{watch.rate:,.0f}" if watch.ready else "not ready",
            "device busy": f"{watch.busy:.0%}",
            "ready after, s": f"{watch.ready - started:.1f}" if watch.ready else f"over {RAY_READY_SECONDS:.0f}",
        }
    )


class Watch:
    """A clock that starts when all tokenizers have done a shard, and ends the run after a time.

    Args:
        tokenizers: number of them.
        seconds: to measure.

    Attributes:
        ready: when the clock started.
        rate: items a second since then.
        busy: mean share of the time with work on the devices.
    """

    def __init__(self, tokenizers: int, seconds: float) -> None:
        self._tokenizers, self._seconds = tokenizers, seconds
        self._began, self._workers, self._items, self._busy = time.perf_counter(), set[str](), 0, list[float]()
        self.ready = self.rate = self.busy = 0.0

    def report(self, report: Report) -> None:
        """Count a shard that is done."""
        now = time.perf_counter()
        self._workers.add(report.worker)
        if not self.ready:
            if len(self._workers) == self._tokenizers:
                self.ready = now
            elif now - self._began > RAY_READY_SECONDS:
                raise EnoughError
            return
        self._items += report.items
        self._busy.append(report.busy)
        self.rate, self.busy = self._items / (now - self.ready), sum(self._busy) / len(self._busy)
        if now - self.ready > self._seconds:
            raise EnoughError


if __name__ == "__main__":
    app()
