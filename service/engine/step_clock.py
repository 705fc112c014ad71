"""The time that each step of a batch takes: work of a GPU by the GPU's own clock."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch

Step = Literal["decode", "stage", "launch", "upload", "resize", "encode", "download"]
HOST_STEPS: tuple[Step, ...] = ("decode", "stage", "launch")
DEVICE_STEPS: tuple[Step, ...] = ("upload", "resize", "encode", "download")


class Total(NamedTuple):
    """A step of all batches so far.

    Args:
        times: that it was done.
        seconds: that it took.
    """

    times: int = 0
    seconds: float = 0.0


class StepClock:
    """Sums of what steps take; on a GPU, of those that it has ended. Any thread may use it.

    Args:
        on_gpu: the device's steps are work of a GPU's streams; else the host does them itself.

    Attributes:
        running: steps are timed, which costs a GPU two events each.
    """

    def __init__(self, on_gpu: bool) -> None:
        self.running = False
        self._on_gpu, self._lock = on_gpu, threading.Lock()
        self._totals: dict[Step, Total] = dict.fromkeys((*HOST_STEPS, *DEVICE_STEPS), Total())
        self._pending: deque[tuple[Step, torch.cuda.Event, torch.cuda.Event]] = deque()

    @contextmanager
    def on_host(self, step: Step) -> Iterator[None]:
        """Time what the calling thread does in the block."""
        started = time.perf_counter()
        yield
        if self.running:
            with self._lock:
                self._add(step, time.perf_counter() - started)

    @contextmanager
    def on_device(self, step: Step) -> Iterator[None]:
        """Time the work that the block gives to the current stream."""
        if not (self._on_gpu and self.running):
            with self.on_host(step):
                yield
            return
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        yield
        end.record()
        with self._lock:
            self._pending.append((step, start, end))
            self._collect()

    def totals(self) -> dict[Step, Total]:
        """Return the sums by step."""
        with self._lock:
            self._collect()
            return dict(self._totals)

    def _collect(self) -> None:
        while self._pending and self._pending[0][-1].query():
            step, start, end = self._pending.popleft()
            self._add(step, start.elapsed_time(end) / 1000)

    def _add(self, step: Step, seconds: float) -> None:
        total = self._totals[step]
        self._totals[step] = Total(total.times + 1, total.seconds + seconds)


def busy_seconds(totals: dict[Step, Total]) -> float:
    """Return the time in which the device computed, without its copies, which go on meanwhile."""
    return totals["resize"].seconds + totals["encode"].seconds
