"""`python -m benchmarks.link`: CPU time of an item on its way through the link, the queue and back, without HTTP.

One process has the queue, the link and a device that sleeps; others have callers, each with a caller's share of its
own. Callers ask again a random moment after their answer, as connections of a proxy do, so items come in small crowds.
"""

from __future__ import annotations

import asyncio
import cProfile
import multiprocessing
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import astuple, dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
import uvloop
from rich.console import Console
from rich.table import Table

from service.flow import Flow
from service.flow import current as current_flow
from service.in_process import LocalBackend
from service.link.client import LinkClient
from service.link.server import LinkServer
from service.metrics.folder import join
from service.metrics.tokenizer import TokenizerMetrics
from service.settings import Settings
from service.trace import TraceContext
from service.trace import current as current_trace
from service.types import ModelCard, TokenizerKey

CARD = ModelCard("vq", "a" * 64, "vq", 8192, 8, 8, 4, "causal", True, 1, "cpu", "float32")
SIZE = (1, 256, 256)
ARENA_BYTES = 2**28
ANSWER_SECONDS = 60.0
RARE_MS, OFTEN_MS = 40.0, 4.0  # pauses of callers
BODY = 16  # items
WARM_UP_SECONDS = 0.5
DIGITS = (0, 1, 1, 1, 2)  # of the columns

app = typer.Typer(help=__doc__, pretty_exceptions_enable=False, add_completion=False)


@dataclass(frozen=True)
class Load:
    """Callers of one run.

    Args:
        ingresses: their processes.
        callers: in each.
        items: of a message; 1 for single items.
        seconds: length of the run.
        batch_ms: of the device.
        pause_ms: the longest time from an answer to the next call; 0 for none.
    """

    ingresses: int
    callers: int
    items: int
    seconds: float
    batch_ms: float
    pause_ms: float


@dataclass(frozen=True)
class Figures:
    """The outcome of one run: items a second, CPU microseconds an item, and the median latency of a call, ms."""

    rate: float
    loop_us: float
    engine_us: float
    ingress_us: float
    latency_ms: float


@app.command()
def main(
    ingresses: Annotated[int, typer.Option(help="Processes of callers.")] = 8,
    callers: Annotated[int, typer.Option(help="In each, for single items.")] = 16,
    seconds: Annotated[float, typer.Option(help="Length of a run.")] = 3.0,
    repeats: Annotated[int, typer.Option(help="Runs of each load.")] = 5,
    batch_ms: Annotated[float, typer.Option(help="Time of a batch on the device.")] = 4.0,
    profile: Annotated[
        Path | None, typer.Option(help="Folder for profiles of single items; CPU times then grow.")
    ] = None,
) -> None:
    """Print CPU microseconds an item and the latency: single items, many in a message, and one caller alone."""
    from benchmarks.measure import describe_machine  # imports torch, which the processes of a run do without

    print(describe_machine())
    crowd = Load(ingresses, callers, 1, seconds, batch_ms, RARE_MS)
    bodies = max(1, callers // BODY)
    loads = {
        "single items": crowd,
        "single items, as many as the cores bear": replace(crowd, pause_ms=OFTEN_MS),
        f"{BODY} in a message": replace(crowd, callers=bodies, items=BODY),
        "one caller": Load(1, 1, 1, seconds, batch_ms, 0.0),
    }
    if profile is not None:
        profile.mkdir(parents=True, exist_ok=True)
        _run(crowd, profile)
        return
    done: dict[str, list[Figures]] = {name: [] for name in loads}
    for _ in range(repeats):  # in turns, so that a disturbance of the machine falls on all
        for name, load in loads.items():
            done[name].append(_run(load))
    table = Table("load", "items/s", "tokenizer, loop, us", "engine's thread, us", "ingress, us", "p50, ms")
    for name, runs in done.items():
        columns = zip(*(astuple(run) for run in runs), strict=True)
        table.add_row(name, *(_spread(column, digits) for column, digits in zip(columns, DIGITS, strict=True)))
    Console(width=120).print(table)


Role = Callable[[Path, Load, Connection, cProfile.Profile | None], Coroutine[Any, Any, Any]]


def _spread(values: Sequence[float], digits: int) -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def _run(load: Load, profile: Path | None = None) -> Figures:
    """Start the processes, let them work, and return what it cost."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        processes, pipes = [], []
        roles: list[Role] = [_tokenizer, *load.ingresses * [_ingress]]
        for number, role in enumerate(roles):
            here, there = context.Pipe()
            path = None if profile is None else profile / f"{role.__name__.strip('_')}-{number}.prof"
            process = context.Process(target=_process, args=(role, Path(folder), load, there, path), daemon=True)
            process.start()
            processes.append(process)
            pipes.append(here)
            here.recv()  # it is ready
        for pipe in pipes:
            pipe.send("begin")
        tokenizer, *ingresses = [pipe.recv() for pipe in pipes]
        for process in processes:
            process.join()
    items, loop, engine = tokenizer
    answered = sum(one[0] for one in ingresses)
    ingress = sum(one[1] for one in ingresses)
    latency = statistics.median([one for ingress in ingresses for one in ingress[2]])
    return Figures(items / load.seconds, 1e6 * loop / items, 1e6 * engine / items, 1e6 * ingress / answered, latency)


def _process(role: Role, folder: Path, load: Load, pipe: Connection, profile: Path | None) -> None:
    profiler = cProfile.Profile() if profile is not None else None
    pipe.send(uvloop.run(role(folder, load, pipe, profiler)))
    if profiler is not None:
        profiler.dump_stats(str(profile))


async def _measured(load: Load, pipe: Connection, profiler: cProfile.Profile | None, read: Callable[[], Any]) -> Any:
    """Let the load begin with that of the others; return what `read` gives at both ends of the run."""
    pipe.send("ready")
    await asyncio.to_thread(pipe.recv)
    await asyncio.sleep(WARM_UP_SECONDS)
    if profiler is not None:
        profiler.enable()
    before = read()
    await asyncio.sleep(load.seconds)
    after = read()
    if profiler is not None:
        profiler.disable()
    return before, after


async def _tokenizer(
    folder: Path, load: Load, pipe: Connection, profiler: cProfile.Profile | None
) -> tuple[float, ...]:
    """Serve; return items, and CPU seconds of the event loop and of the engine's thread."""
    (folder / "metrics").mkdir()
    join(folder / "metrics")
    items, clock = 0, 0
    grid = CARD.geometry.grid(SIZE)
    tokens = np.zeros(grid, np.uint16)

    def launch(key: TokenizerKey, payloads: Sequence[Any]) -> Callable[[], list[Any]]:
        nonlocal items, clock
        clock = time.pthread_getcpuclockid(threading.get_ident())
        items += len(payloads)
        return partial(fetch, len(payloads))

    def fetch(count: int) -> list[Any]:
        time.sleep(load.batch_ms / 1e3)
        return [(tokens, None)] * count

    metrics = TokenizerMetrics("benchmark", [CARD.id])
    backend = LocalBackend([CARD], launch, Settings(bundles=()), metrics)
    server = LinkServer(folder, backend, [CARD])
    await server.start()

    def read() -> tuple[float, ...]:
        return items, time.thread_time(), time.clock_gettime(clock)

    before, after = await _measured(load, pipe, profiler, read)
    await asyncio.sleep(WARM_UP_SECONDS)  # callers end first
    server.close()
    backend.close()
    return tuple(late - early for late, early in zip(after, before, strict=True))


async def _ingress(
    folder: Path, load: Load, pipe: Connection, profiler: cProfile.Profile | None
) -> tuple[int, float, list[float]]:
    """Call; return items, CPU seconds of the process, and the latency of each call in ms."""
    client = LinkClient(folder, ARENA_BYTES, tries=3)
    while not client.cards:
        await asyncio.sleep(0.01)
    images = [np.full((*SIZE, 3), value, np.uint8) for value in range(load.items)]
    latencies: list[float] = []

    async def ask(number: int) -> None:
        current_flow.set(Flow(f"{id(client)} {number}"))
        while True:
            await asyncio.sleep(random.uniform(0, load.pause_ms) / 1e3)
            current_trace.set(TraceContext.begin())
            begun = time.perf_counter()
            if load.items > 1:
                await client.encode_many(CARD.id, images, "tokens", seconds=ANSWER_SECONDS)
            else:
                await client.encode(CARD.id, images[0], "tokens", seconds=ANSWER_SECONDS)
            latencies.append(1e3 * (time.perf_counter() - begun))

    callers = [asyncio.create_task(ask(number)) for number in range(load.callers)]
    before, after = await _measured(load, pipe, profiler, lambda: (len(latencies), time.process_time()))
    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    await client.close()
    return load.items * (after[0] - before[0]), after[1] - before[1], latencies[before[0] : after[0]]


if __name__ == "__main__":
    app()
