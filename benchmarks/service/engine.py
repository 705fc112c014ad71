"""`python -m benchmarks.service.engine`: batches through the service's engine and executor, against the GPU alone."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from model.bundle import save_bundle
from model.tokenizer.config import CONFIGS
from model.tokenizer.tokenizer import OmniTokenizer
from service.engine.tokenizer import Engine
from service.in_process import Unobserved
from service.scheduling.batcher import MAX_RUNNING, Batcher
from service.scheduling.executor import BatchExecutor
from service.types import Size, TokenizerKey

IMAGE, CLIP = (1, 256, 256), (17, 128, 128)
SHAPES = ((16, IMAGE), (32, IMAGE), (64, IMAGE), (8, CLIP), (12, CLIP), (16, CLIP))
POOL_BYTES = 2**26  # of different items, so that the host's caches do not hold them
CALLERS_PER_ITEM = 8  # of a batch, so that the queue is never empty
ANSWER_SECONDS = 60.0

app = typer.Typer(help=__doc__, pretty_exceptions_enable=False, add_completion=False)


@app.command()
def main(
    config: Annotated[str, typer.Option(help=f"One of {', '.join(CONFIGS)}.")] = "published",
    dtype: Annotated[str, typer.Option(help="Precision of the network.")] = "bfloat16",
    seconds: Annotated[float, typer.Option(help="Length of each measurement.")] = 1.0,
) -> None:
    """Print items a second of encoding to tokens: the GPU's replays, and the engine's share of them."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        save_bundle(Path(folder) / "random", OmniTokenizer(CONFIGS[config]).eval(), card="Random weights.")
        engine = Engine([Path(folder) / "random"], "cuda", dtype, torch.get_num_threads())
    positions = max(batch * engine.cards[0].geometry.positions(size) for batch, size in SHAPES)
    engine.warm_up((IMAGE, CLIP), positions, max(batch for batch, _ in SHAPES))
    table = Table("items", "size", "device alone, 1/s", "one batch at a time", "two in flight", "executor")
    for batch, size in SHAPES:
        key = TokenizerKey("random", "encode", "pixels", size, "tokens")
        pool = _draw(size)
        alone = batch * _replays(engine, size, batch, seconds)
        rates = (
            batch * _launches(engine, key, _cycle(pool, batch), 1, seconds),
            batch * _launches(engine, key, _cycle(pool, batch), MAX_RUNNING, seconds),
            asyncio.run(_executed(engine, key, pool, batch, seconds)),
        )
        table.add_row(str(batch), "x".join(map(str, size)), f"{alone:.0f}", *(f"{rate / alone:.1%}" for rate in rates))
    Console(width=100).print(table)


def _draw(size: Size) -> list[NDArray[np.uint8]]:
    count = max(1, POOL_BYTES // (3 * int(np.prod(size))))
    return list(np.random.default_rng(0).integers(0, 256, (count, *size, 3), np.uint8))


def _cycle(pool: list[Any], batch: int) -> Iterator[list[Any]]:
    """Yield batches of a pool's items for ever."""
    place = 0
    while True:
        yield [pool[(place + offset) % len(pool)] for offset in range(batch)]
        place += batch


def _rate(call: Callable[[], Any], seconds: float) -> float:
    """Return calls a second, the device's work included."""
    call()
    torch.cuda.synchronize()
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        call()
        count += 1
    torch.cuda.synchronize()
    return count / (time.perf_counter() - start)


def _replays(engine: Engine, size: Size, batch: int, seconds: float) -> float:
    """Return batches a second that the device encodes, with its input at hand."""
    compiled = engine._compiled["random"]
    pixels = torch.zeros((batch, *size, 3), dtype=torch.uint8, device="cuda")
    with torch.inference_mode():
        return _rate(lambda: compiled.encoding(pixels), seconds)


def _launches(engine: Engine, key: TokenizerKey, batches: Iterator[list[Any]], most: int, seconds: float) -> float:
    """Return batches a second with so many in flight, from the host's memory and back."""
    flights: deque[Callable[[], Any]] = deque()

    def step() -> None:
        flights.append(engine.launch(key, next(batches)))
        if len(flights) == most:
            flights.popleft()()

    rate = _rate(step, seconds)
    while flights:
        flights.popleft()()
    return rate


async def _executed(engine: Engine, key: TokenizerKey, pool: list[Any], batch: int, seconds: float) -> float:
    """Return items a second of many callers, each of whom asks again when it is answered."""
    cost = engine.cards[0].geometry.positions(key.size)
    callers = CALLERS_PER_ITEM * batch
    executor = BatchExecutor(engine.launch, Batcher(batch * cost, batch, 2 * callers * cost), Unobserved())
    end, answered = time.monotonic() + seconds, 0

    async def ask(caller: int) -> None:
        nonlocal answered
        while time.monotonic() < end:
            await executor.submit(key, cost, pool[caller % len(pool)], ANSWER_SECONDS)
            answered += 1

    start = time.monotonic()
    await asyncio.gather(*(ask(caller) for caller in range(callers)))
    executor.close()
    return answered / (time.monotonic() - start)


if __name__ == "__main__":
    app()
