"""Mixed calls whose answers must agree with each other: none is equal to an earlier one, so that no cache answers."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from media.write import encode_image
from service.client import Client
from service.formats.result import EncodeResult

SIDE, FRAMES = 64, 5
JOB_SECONDS = 120.0
JOB_POLL_SECONDS = 0.5


class SoakLoad:
    """A thread that calls at a steady rate until the `with` block ends.

    Args:
        url: of the service.
        rate: rounds per second; each is one kind of call, several requests at most.
        seed: of the contents.
        sample_every: rounds between two samples of a generator; 0 for none.

    Attributes:
        rounds: by kind, those that went well.
        faults: what went wrong, by sentence.
    """

    def __init__(self, url: str, rate: float, seed: int, sample_every: int) -> None:
        self._url, self._rate, self._sample_every = url, rate, sample_every
        self._rng = np.random.default_rng(seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self.rounds: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()

    def __enter__(self) -> SoakLoad:
        self._client, self._http = Client(self._url), httpx.Client(base_url=self._url, timeout=60, trust_env=False)
        self._has_jobs = "/jobs" in self._http.get("/openapi.json").json()["paths"]
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._client.close()
        self._http.close()

    def _work(self) -> None:
        kinds: list[Callable[[], None]] = [self.picture, self.clip, self.refusal]
        samples = [self.sample, self.job] if self._has_jobs else [self.sample]
        turn, due = 0, time.monotonic()
        while not self._stop.is_set():
            turn += 1
            is_sample = self._sample_every and turn % self._sample_every == 0
            kind = samples[turn // self._sample_every % len(samples)] if is_sample else kinds[turn % len(kinds)]
            try:
                kind()
                self.rounds[kind.__name__] += 1
            except Exception as error:
                self.faults[f"{kind.__name__}: {type(error).__name__}: {error}"] += 1
            due = max(due + 1 / self._rate, time.monotonic())
            self._stop.wait(due - time.monotonic())

    def picture(self) -> None:
        """Encode a picture as pixels and as a file, decode it, reconstruct it, and compare."""
        pixels = self._pixels(1)
        result = self._client.encode(pixels)
        again = self._client.encode(encode_image(pixels, "image/png"))
        _check(_tokens(result).tolist() == _tokens(again).tolist(), "A file has other tokens than its pixels.")
        _check(
            np.array_equal(self._client.decode(result), self._client.reconstruct(pixels)),
            "Reconstructing is not encoding and decoding.",
        )

    def clip(self) -> None:
        """Encode a clip, decode it to a file and back."""
        result = self._client.encode(self._pixels(FRAMES))
        file = self._client.decode(result, accept="video/mp4")
        again = self._client.encode(file)
        _check(_tokens(again).shape == _tokens(result).shape, "A clip lost frames.")

    def refusal(self) -> None:
        """Send a file that is cut off."""
        file = encode_image(self._pixels(1), "image/png")
        response = self._http.post("/encode", content=file[: len(file) // 2], headers={"Content-Type": "image/png"})
        _check(response.status_code == 422, f"A damaged file got {response.status_code}.")

    def sample(self) -> None:
        """Make a picture of a class."""
        seed = int(self._rng.integers(2**31))
        sample = self._client.generate(int(self._rng.integers(4)), seed=seed).samples[0]
        _check(sample.pixels is not None and sample.pixels.shape[-1] == 3, "A sample has no pixels.")

    def job(self) -> None:
        """Make a picture as a job, take it and forget it."""
        body = {"class": int(self._rng.integers(4)), "seed": int(self._rng.integers(2**31))}
        accepted = self._http.post("/generate", json=body, headers={"Prefer": "respond-async"})
        _check(accepted.status_code == 202, f"A job got {accepted.status_code}: {accepted.text[:100]}")
        name = accepted.json()["id"]
        deadline = time.monotonic() + JOB_SECONDS
        while (record := self._http.get(f"/jobs/{name}").json())["status"] in ("queued", "in_progress", "running"):
            _check(time.monotonic() < deadline, f"A job is {record['status']} after {JOB_SECONDS:.0f} s.")
            time.sleep(JOB_POLL_SECONDS)
        _check(record["status"] == "completed", f"A job ended as {record}.")
        content = self._http.get(f"/jobs/{name}/content")
        _check(content.content.startswith(b"\x89PNG"), f"The content of a job is {content.content[:40]!r}.")
        with suppress(httpx.HTTPError):
            self._http.delete(f"/jobs/{name}")

    def _pixels(self, frames: int) -> NDArray[np.uint8]:
        coarse = self._rng.integers(0, 256, (frames, SIDE // 8, SIDE // 8, 3), dtype=np.uint8)
        return coarse.repeat(8, axis=1).repeat(8, axis=2)


def _tokens(result: EncodeResult) -> NDArray[Any]:
    if result.tokens is None:
        raise AssertionError("An answer holds no tokens.")
    return result.tokens


def _check(holds: Any, sentence: str) -> None:
    if not holds:
        raise AssertionError(sentence)
