"""One run of load by several processes at once, with the service's CPU time over the same seconds."""

from __future__ import annotations

import gc
import multiprocessing
import resource
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection as Pipe
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from benchmarks.service.cpu import GpuWatch, cpu_seconds, snapshot
from benchmarks.service.generator import Generator
from benchmarks.service.mixes import KINDS, MIXES
from benchmarks.service.plan import Plan, closed_plan, open_plan

LEAD_SECONDS = 0.2  # from the last process that is ready to the start
CLOSED_MOST_PER_SECOND = 10_000  # requests of one process that waits for nothing


@dataclass(frozen=True)
class Load:
    """A run.

    Args:
        url: of the service; its path is ignored.
        mix: name in `MIXES`.
        rate: planned requests per second; None for a closed loop.
        connections: the most at once; in a closed loop each always has a request in flight.
        seconds: that count.
        warm_up: seconds before them, under the same load.
        seed: of arrivals, kinds and contents.
        timeout: of a request, seconds.
        processes: that share the load.
        headers: further header lines.
    """

    url: str
    mix: str
    rate: float | None
    connections: int
    seconds: float
    warm_up: float = 2.0
    seed: int = 0
    timeout: float = 30.0
    processes: int = 1
    headers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.mix not in MIXES:
            raise ValueError(f"There is not a mix {self.mix!r}; take one of {', '.join(MIXES)}.")
        if self.connections < self.processes:
            raise ValueError(
                f"{self.connections} connections cannot serve {self.processes} processes; raise --connections."
            )

    @property
    def address(self) -> tuple[str, int]:
        """Return host and port."""
        parts = urlsplit(self.url)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"{self.url} must be of the form http://HOST:PORT.")
        return parts.hostname, parts.port or 80

    def at(self, url: str) -> Load:
        """Return the same load on another service."""
        return replace(self, url=url)

    def plan(self, process: int) -> Plan:
        """Return the requests of one of the processes."""
        mix, seconds = MIXES[self.mix], self.warm_up + self.seconds
        if self.rate is None:
            most = int(seconds * CLOSED_MOST_PER_SECOND) * self.processes
            return closed_plan(mix, most, self.seed).share(process, self.processes)
        return open_plan(mix, self.rate, seconds, self.seed).share(process, self.processes)

    def generator(self, process: int, salt: int) -> Generator:
        """Return the generator of one of the processes."""
        host = urlsplit(self.url).netloc
        kinds = [KINDS[name].templates(host, self.headers, self.seed) for name in MIXES[self.mix].kinds]
        return Generator(
            self.address,
            kinds,
            self.plan(process),
            self.connections // self.processes,
            self.timeout,
            self.rate is None,
            self.warm_up + self.seconds,
            salt,
        )


@dataclass(frozen=True)
class Run:
    """The raw result of a run.

    Args:
        load: that was asked for.
        rows: one a request (`ROW`), of the warm-up too.
        cpu: processes and CPU seconds of the service by name, over `cpu_seconds`.
        cpu_answers: requests answered 200 in those seconds.
        client_cores: CPU seconds a second of the generator's processes, each.
        gpu: share of the time in which the GPU was busy, None if unknown.
    """

    load: Load
    rows: NDArray[np.void]
    cpu: dict[str, tuple[int, float]]
    cpu_answers: int
    client_cores: list[float]
    gpu: float | None


def run_load(load: Load, service: int | None = None) -> Run:
    """Run the load and return what happened.

    Args:
        load: the run.
        service: process id whose tree is the service, None to leave its CPU time out.
    """
    context = multiprocessing.get_context("spawn")
    salt = time.time_ns() // 1_000_000  # a cache may still hold the requests of an earlier run
    pipes: list[Pipe] = []
    children = []
    for index in range(load.processes):
        ours, theirs = context.Pipe()
        child = context.Process(target=_work, args=(theirs, load, index, salt), daemon=True)
        child.start()
        theirs.close()
        pipes.append(ours)
        children.append(child)
    try:
        for pipe in pipes:
            pipe.recv()
        start = time.perf_counter() + LEAD_SECONDS
        for pipe in pipes:
            pipe.send(start)
        time.sleep(max(0.0, start + load.warm_up - time.perf_counter()))
        gpu = GpuWatch()
        before = snapshot(service) if service else {}
        counted_from = time.perf_counter() - start
        time.sleep(max(0.0, start + load.warm_up + load.seconds - time.perf_counter()))
        busy = gpu.stop()
        after = snapshot(service) if service else {}
        counted_to = time.perf_counter() - start
        results = [pipe.recv() for pipe in pipes]
    except EOFError:
        raise RuntimeError("A process of the load generator ended early; its error is above.") from None
    finally:
        for child in children:
            with suppress(TimeoutError):
                child.join(1.0)
            child.kill()
    rows = np.concatenate([rows for rows, _ in results])
    rows.sort(order="due")
    within = (rows["status"] == 200) & (rows["done"] >= counted_from) & (rows["done"] < counted_to)
    return Run(load, rows, cpu_seconds(before, after), int(within.sum()), [cores for _, cores in results], busy)


def _work(pipe: Pipe, load: Load, index: int, salt: int) -> None:
    generator = load.generator(index, salt)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # an overload has thousands of connections
    gc.freeze()
    gc.disable()
    pipe.send(None)
    start = pipe.recv()
    time.sleep(max(0.0, start - time.perf_counter()))
    used, began = time.process_time(), time.perf_counter()
    rows = generator.run(start)
    pipe.send((rows, (time.process_time() - used) / (time.perf_counter() - began)))
