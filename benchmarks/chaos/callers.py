"""Callers of a service: threads that repeat known requests with the client's retries, and compare every answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from media.write import encode_image
from service.client import Client, ServiceError, read_arrays

SIDE = 64  # small, so that a slow machine still makes many calls


class Call(NamedTuple):
    """One call: begin and end in seconds of `time.monotonic`, what it was, and why it failed, empty if it did not."""

    begun: float
    ended: float
    kind: str
    error: str


@dataclass(frozen=True)
class Request:
    """A request with its known answer."""

    kind: str
    send: Callable[[Client], Any]
    answer: Any


class Callers:
    """Threads that call until the `with` block ends.

    Args:
        url: of the service, which must be ready.
        number: of threads.
        retries: of each call.
        pause: seconds between the calls of a thread.
        with_samples: also make pictures, with a seed, as answers and as jobs.
    """

    def __init__(self, url: str, number: int, retries: int | None, pause: float, with_samples: bool) -> None:
        self._url, self._number, self._pause = url, number, pause
        self._options: dict[str, Any] = {} if retries is None else {"retries": retries}
        self._stop = threading.Event()
        self.calls: list[Call] = []
        with Client(url) as client:
            self._requests = _requests(client, with_samples)

    def __enter__(self) -> Callers:
        self._threads = [threading.Thread(target=self._work, args=(index,)) for index in range(self._number)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def between(self, begin: float, end: float) -> list[Call]:
        """Return the calls that ran at some time between two moments."""
        return [call for call in list(self.calls) if call.ended >= begin and call.begun <= end]

    def _work(self, turn: int) -> None:
        with Client(self._url, **self._options) as client:
            while not self._stop.is_set():
                request = self._requests[turn % len(self._requests)]
                turn += 1
                begun = time.monotonic()
                error = _call(client, request)
                self.calls.append(Call(begun, time.monotonic(), request.kind, error))
                self._stop.wait(self._pause)


def _call(client: Client, request: Request) -> str:
    try:
        answer = request.send(client)
    except ServiceError as problem:
        return f"{problem.status} {problem.code}: {problem.detail}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "" if np.array_equal(answer, request.answer) else "another answer"


def _requests(client: Client, with_samples: bool) -> list[Request]:
    rng = np.random.default_rng(0)
    requests = []
    for _ in range(4):
        pixels = np.kron(rng.integers(0, 256, (SIDE // 8, SIDE // 8, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))
        result = client.encode(pixels)
        requests += [
            Request("encode", partial(_tokens, media=pixels), result.tokens),
            Request("encode of a file", partial(_tokens, media=encode_image(pixels[None], "image/png")), result.tokens),
            Request("decode", partial(Client.decode, codes=result), client.decode(result)),
            Request("reconstruct", partial(Client.reconstruct, media=pixels), client.reconstruct(pixels)),
        ]
    if with_samples:
        sample = _sample(client)
        requests += [Request("generate", _sample, sample), Request("job", _job, sample)]
    return requests


def _sample(client: Client) -> Any:
    return client.generate(1, seed=3).samples[0].pixels


def _job(client: Client) -> Any:
    job = client.wait(client.submit(1, seed=3))
    samples = read_arrays(client.content(job)).samples
    client.cancel(job)  # it would be kept for a day
    return samples[0].pixels


def _tokens(client: Client, media: NDArray[np.uint8] | bytes) -> Any:
    return client.encode(media).tokens
