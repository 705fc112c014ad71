"""Callers of a service: some of everything, or far too much."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import httpx

SAMPLES = Path(__file__).parents[2] / "docs" / "samples"
MSGPACK = "application/msgpack"
What = Literal["anything", "clips", "pictures"]


class Callers:
    """Threads that call until they are stopped.

    Args:
        url: of the service.
        count: of threads.
        what: they send.
        pause: mean seconds between two calls of a thread.
    """

    def __init__(self, url: str, count: int, what: What = "anything", pause: float = 0.5) -> None:
        self.codes: Counter[int] = Counter()  # 0 is a broken connection
        self._url, self._what, self._pause = url, what, pause
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(seed,), daemon=True) for seed in range(count)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(90)

    def _run(self, seed: int) -> None:
        rng = random.Random(seed)
        with httpx.Client(base_url=self._url, timeout=90, trust_env=False) as http:
            while not self._stop.wait(rng.expovariate(1 / self._pause)):
                try:
                    status = CALLS[self._what](http, rng)
                except httpx.TransportError:
                    status = 0
                self.codes[status] += 1
                if status in (0, 503):
                    self._stop.wait(0.5)


def _clip(http: httpx.Client, rng: random.Random) -> int:
    return _post(http, "/encode", (SAMPLES / "flight.mp4").read_bytes(), "video/mp4", MSGPACK).status_code


def _picture(http: httpx.Client, rng: random.Random) -> int:
    return _post(http, "/encode?size=64", (SAMPLES / "igloo.jpg").read_bytes(), "image/jpeg", MSGPACK).status_code


def _anything(http: httpx.Client, rng: random.Random) -> int:
    png, clip = (SAMPLES / "igloo.png").read_bytes(), (SAMPLES / "flight.mp4").read_bytes()
    choice = rng.choices(
        ("encode", "decode", "reconstruct", "clip", "sample", "job", "broken", "wrong", "jobs"),
        (30, 15, 10, 6, 4, 1, 3, 2, 2),
    )[0]
    if choice == "encode":
        return _post(http, f"/encode?size={rng.choice((64, 128))}", png, "image/png", MSGPACK).status_code
    if choice == "decode":
        tokens = _post(http, "/encode?size=64", png, "image/png", MSGPACK)
        if tokens.status_code != 200:
            return tokens.status_code
        return _post(http, "/decode", tokens.content, MSGPACK, "image/png").status_code
    if choice == "reconstruct":
        return _post(http, "/reconstruct?size=128", png, "image/png", "image/webp").status_code
    if choice == "clip":
        return _post(http, "/reconstruct?size=64", clip, "video/mp4", "video/mp4").status_code
    if choice in ("sample", "job"):
        headers = {"Accept": "image/png"} | ({"Prefer": "respond-async"} if choice == "job" else {})
        return http.post(f"/generate?class={rng.randrange(4)}", headers=headers).status_code
    if choice == "jobs":
        return http.get("/jobs").status_code
    if choice == "broken":
        return _post(http, "/encode", png[: len(png) // 2], "image/png", MSGPACK).status_code
    return _post(http, "/encode", b"not a picture", "image/png", MSGPACK).status_code


def _post(http: httpx.Client, path: str, body: bytes, kind: str, accept: str) -> httpx.Response:
    return http.post(path, content=body, headers={"Content-Type": kind, "Accept": accept})


CALLS: dict[What, Callable[[httpx.Client, random.Random], int]] = {
    "anything": _anything,
    "clips": _clip,
    "pictures": _picture,
}
