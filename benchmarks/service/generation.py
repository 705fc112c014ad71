"""`python -m benchmarks.service.generation`: samples over HTTP alone, in crowds and as jobs, and encoding meanwhile."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.rows import RowFile
from service.client import Client
from service.client.generation import GenerateOptions

IN_ONE_REQUEST = (1, 8, 16)  # samples
AT_ONCE = (16, 64, 128)  # requests
JOBS = ((1, 4), (16, 2))  # jobs, and samples of each
RUNS = 3  # of a request alone
CLASSES = 4  # the smallest generator has so many
CALLERS_PER_CLIENT = 32  # connections of one
ENCODE_PAUSE_S = 0.005
QUANTILES = (50, 99)

Seconds = list[float]  # of each request


def main(
    url: Annotated[str, typer.Option(help="Of the service.")] = "http://127.0.0.1:8000",
    at_once: Annotated[list[int] | None, typer.Option(help="Requests at once; repeat for a sweep.")] = None,
    mixed: Annotated[int, typer.Option(help="Requests with settings of their own.")] = 32,
    mixed_seconds: Annotated[float, typer.Option(help="In which they arrive.")] = 3.0,
    side: Annotated[int, typer.Option(help="Of the picture that is encoded meanwhile.")] = 256,
    seconds: Annotated[float, typer.Option(help="Of encoding alone.")] = 3.0,
    out: Annotated[Path | None, typer.Option(help="File of the rows, JSON.")] = None,
) -> None:
    """Print seconds and samples a second, and the latency of an encoding meanwhile."""
    table = RowFile(out)
    with Client(url) as client:
        _generate(client, 1, {})  # the first one may wait for kernels

        def measure(work: str, samples: int, run: Callable[[], Seconds]) -> None:
            with _encoding(client, side) as encoded:
                begun = time.perf_counter()
                took = run()
                whole = time.perf_counter() - begun
            table.add(
                {
                    "work": work,
                    "a request: p50, longest, s": f"{np.median(took):.2f}, {max(took):.2f}" if took else "-",
                    "all, s": f"{whole:.2f}",
                    "samples/s": f"{samples / whole:.1f}" if samples else "-",
                    "an encoding meanwhile: p50 / p99, ms": " / ".join(
                        f"{1e3 * value:.1f}" for value in np.percentile(encoded, QUANTILES)
                    ),
                }
            )

        measure("encoding alone", 0, partial(_wait, seconds))
        for samples in IN_ONE_REQUEST:
            run = partial(_one_after_another, client, samples)
            measure(f"{samples} in one request, {RUNS} times", RUNS * samples, run)
        for count in at_once or AT_ONCE:
            measure(f"{count} requests at once", count, partial(_crowd, url, count, 0.0))
        name = f"{mixed} requests with settings of their own over {mixed_seconds:g} s"
        measure(name, mixed, partial(_crowd, url, mixed, mixed_seconds))
        for count, samples in JOBS:
            name = f"{count} job{'s' * (count > 1)} of {samples}"
            measure(name, count * samples, partial(_jobs, client, count, samples))


def _wait(seconds: float) -> Seconds:
    time.sleep(seconds)
    return []


def _generate(client: Client, samples: int, options: GenerateOptions) -> float:
    """Make samples, and return the seconds."""
    given: GenerateOptions = {"n": samples, "seed": random.randrange(2**31), "kind": "image", **options}
    begun = time.perf_counter()
    client.generate(samples % CLASSES, **given)
    return time.perf_counter() - begun


def _one_after_another(client: Client, samples: int) -> Seconds:
    return [_generate(client, samples, {}) for _ in range(RUNS)]


def _crowd(url: str, count: int, within: float) -> Seconds:
    """Send requests at once; or at random moments of some seconds, each with settings of its own."""
    rng = random.Random(0)
    plan: list[tuple[float, GenerateOptions]] = [(rng.uniform(0, within), _settings(rng, within)) for _ in range(count)]
    with ExitStack() as stack, ThreadPoolExecutor(count) as threads:
        clients = [stack.enter_context(Client(url)) for _ in range(-(-count // CALLERS_PER_CLIENT))]

        def call(number: int) -> float:
            after, options = plan[number]
            time.sleep(after)
            return _generate(clients[number % len(clients)], 1, options)

        return list(threads.map(call, range(count)))


def _settings(rng: random.Random, within: float) -> GenerateOptions:
    if not within:
        return {}
    guidance = rng.choice((1.0, 1.5))
    return {"temperature": rng.uniform(0.5, 1.5), "top_p": rng.uniform(0.5, 1.0), "guidance": guidance}


def _jobs(client: Client, count: int, samples: int) -> Seconds:
    """Submit jobs, wait for all, and return the seconds until each had its file."""
    begun = time.perf_counter()
    jobs = [client.submit(number % CLASSES, n=samples, seed=number, kind="image") for number in range(count)]

    def follow(number: int) -> float:
        client.content(client.wait(jobs[number]))
        return time.perf_counter() - begun

    with ThreadPoolExecutor(count) as threads:
        took = list(threads.map(follow, range(count)))
    for job in jobs:
        client.cancel(job)  # it would be kept for a day
    return took


@contextmanager
def _encoding(client: Client, side: int) -> Iterator[Seconds]:
    """Encode pictures one after the other on a thread; yield their seconds, which are whole when the block ends."""
    done, took = threading.Event(), list[float]()
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)

    def encode() -> None:
        while not took or not done.wait(ENCODE_PAUSE_S):
            begun = time.perf_counter()
            client.encode(pixels)
            took.append(time.perf_counter() - begun)

    with ThreadPoolExecutor(1) as thread:
        encoding = thread.submit(encode)
        try:
            yield took
        finally:
            done.set()
            encoding.result()


if __name__ == "__main__":
    typer.run(main)
