"""Clients that leave, at every stage of their request: its work ends, and nothing of it stays."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import httpx
import numpy as np
import pytest
from api_media import picture
from api_server import VQ, Server
from bad_inputs import LIMITS
from media_samples import workers
from toy_generators import toy_card
from waiting import eventually

from service.in_process import LocalBackend, LocalGenerators
from service.scheduling.batcher import Batch
from service.scheduling.step_executor import StepRequest
from service.scheduling.stepper import Capacity
from service.scheduling.stepper import Sequence as StepSequence
from service.settings import Settings
from service.types import GenerateJob, GeneratorCard, Op

SETTINGS = Settings(limits=LIMITS, max_batch_requests=1)
PNG = {"Content-Type": "image/png"}


class Tokenizers:
    """An engine whose batches last until they are let go, and an observer of its queue."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.begun = self.queued = self.batches = 0

    def launch(self, key: Any, payloads: Sequence[Any]) -> Callable[[], list[Any]]:
        self.begun += len(payloads)

        def fetch() -> list[Any]:
            self.free.wait()
            if key.op == "reconstruct":
                return [np.zeros((*key.size, 3), np.uint8) for _ in payloads]
            grid = VQ.geometry.grid(key.size)
            return [(np.zeros(grid, np.int32), np.zeros((*grid, VQ.latent_channels), np.float32)) for _ in payloads]

        return fetch

    def queue(self, requests: int, tokens: int, oldest: float | None) -> None:
        self.queued = requests

    def batch(self, batch: Batch, seconds: float, waits: Sequence[float]) -> None:
        self.batches += 1

    def split(self, batch: Batch, failure: str) -> None: ...

    def done(self, op: Op, frames: int, tokens: int, model: str, requests: int = 1) -> None: ...


class Steps:
    """An engine whose steps last until they are let go, and an observer of its slots."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.joined = self.left = self.stepping = self.waiting = self.slots = 0
        self.cards: list[GeneratorCard] = [toy_card("toy-lm", VQ.hash, slots=1)]
        self.capacities = {"toy-lm": Capacity(1, 8)}

    def request(self, job: GenerateJob) -> StepRequest:
        return StepRequest(job.model, 1, 0, 1000, job)

    def join(self, sequence: StepSequence) -> None:
        self.joined += 1

    def prefill(self, sequence: StepSequence, tokens: int) -> None: ...

    def step(self, model: str, sequences: Collection[StepSequence]) -> None:
        self.stepping += 1
        self.free.wait()

    def peek(self, sequence: StepSequence) -> Any: ...

    def finish(self, sequence: StepSequence) -> Any: ...

    def leave(self, sequence: StepSequence) -> None:
        self.left += 1

    def generating(self, waiting: int, slots: int, oldest: float | None, positions: int) -> None:
        self.waiting, self.slots = waiting, slots

    def stepped(self, kind: str, steps: int, seconds: float) -> None: ...

    def generated(self, kind: str, model: str, codes: int, waited: float) -> None: ...


class Rig:
    def __init__(self, server: Server, tokenizers: Tokenizers, steps: Steps, workers: set[int]) -> None:
        self.server, self.tokenizers, self.steps, self.workers = server, tokenizers, steps, workers

    def send(self, target: str, body: bytes = b"", missing: int = 0) -> socket.socket:
        """Send a request whose last bytes are missing; return its connection."""
        head = f"POST {target} HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {len(body)}\r\n\r\n"
        connection = socket.create_connection(("127.0.0.1", self.server.port))
        connection.sendall(head.encode() + body[: len(body) - missing])
        return connection

    @property
    def flying(self) -> int:
        return sum(self.server.counts.flying.values())

    @property
    def left(self) -> int:
        return sum(count for (_, _, code), count in self.server.counts.requests.items() if code == "499")

    def leaves(self, connection: socket.socket, gone: Callable[[], bool] = lambda: True) -> None:
        """Close a connection, and check that its request ends and is counted, and that its stage is empty."""
        before, flying = self.left, self.flying
        connection.close()
        eventually(lambda: self.left == before + 1 and self.flying == flying - 1)
        eventually(gone)


@pytest.fixture
def rig() -> Iterator[Rig]:
    tokenizers, steps, others = Tokenizers(), Steps(), set(workers())
    backend = LocalBackend([VQ], tokenizers.launch, SETTINGS, tokenizers)
    generators = LocalGenerators(steps, SETTINGS, steps)
    with Server(SETTINGS, backend, generators) as server:
        rig = Rig(server, tokenizers, steps, set(workers()) - others)
        try:
            yield rig
            tokenizers.free.set()
            answer = httpx.post(f"{server.url}/encode", content=picture(), headers=PNG, timeout=60)
            assert answer.status_code == 200, "the service works on"
            eventually(lambda: rig.flying == 0)
        finally:
            tokenizers.free.set()
            steps.free.set()
            backend.close()
            generators.close()


def test_while_the_body_arrives(rig: Rig) -> None:
    connection = rig.send("/encode", picture(), missing=1)
    eventually(lambda: rig.flying == 1)
    rig.leaves(connection)
    assert rig.tokenizers.begun == 0


def test_in_the_media_workers_and_in_the_line_before_them(rig: Rig) -> None:
    stopped = rig.workers
    for worker in stopped:
        os.kill(worker, signal.SIGSTOP)
    try:
        decoding = [rig.send("/encode", picture()) for _ in stopped]
        eventually(lambda: rig.flying == len(stopped))
        waiting = rig.send("/encode", picture())
        eventually(lambda: rig.flying == len(stopped) + 1)
        rig.leaves(waiting)
        for connection in decoding:
            rig.leaves(connection)
        eventually(lambda: not stopped & set(workers()))
    finally:
        for worker in stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGCONT)
    assert rig.tokenizers.begun == 0


def test_in_the_queue_and_in_a_batch(rig: Rig) -> None:
    tokenizers = rig.tokenizers
    running = rig.send("/encode", picture())
    eventually(lambda: tokenizers.begun == 1)
    queued = rig.send("/encode", picture())
    eventually(lambda: tokenizers.queued == 1)
    rig.leaves(queued, lambda: tokenizers.queued == 0)
    rig.leaves(running)
    tokenizers.free.set()
    eventually(lambda: tokenizers.batches == 1)
    assert tokenizers.begun == 1, "what was queued has never run"


def test_while_the_answer_is_compressed(rig: Rig) -> None:
    stopped = rig.workers
    generated = rig.send("/reconstruct", picture())
    eventually(lambda: rig.tokenizers.begun == 1)
    for worker in stopped:
        os.kill(worker, signal.SIGSTOP)
    try:
        rig.tokenizers.free.set()
        eventually(lambda: rig.tokenizers.batches == 1)
        rig.leaves(generated)
        eventually(lambda: not stopped <= set(workers()))
    finally:
        for worker in stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGCONT)


@pytest.mark.parametrize("accept", ["image/png", "text/event-stream"])
def test_in_the_queue_and_in_a_step_of_a_generator(rig: Rig, accept: str) -> None:
    steps = rig.steps
    target = "/generate?class=1"
    running = rig.send(target)
    eventually(lambda: steps.stepping == 1)
    queued = rig.send(target)
    eventually(lambda: rig.flying == 2)
    rig.leaves(queued, lambda: steps.waiting == 0)
    rig.leaves(running)
    steps.free.set()
    eventually(lambda: (steps.joined, steps.left, steps.slots) == (1, 1, 0))
    eventually(lambda: rig.flying == 0)
