"""The asyncio shell around the batcher: callers await, one dedicated thread runs the engine, failures stay single."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from service.errors import ProblemError
from service.scheduling.batcher import Batch, Batcher, Item, Key
from service.types import Timing

Run = Callable[[Any, Sequence[Any]], Sequence[Any]]  # a key of its own kind


class OutOfMemory(Exception):  # noqa: N818  an event of the accelerator, named as its makers name it
    """The batch did not fit into the accelerator's memory; a smaller one may."""


class DeviceFault(Exception):  # noqa: N818
    """The accelerator is unusable from this process; only a new process can help."""


class Observer(Protocol):
    """The observer of the executor; called on the event loop."""

    def queue(self, requests: int, tokens: int) -> None:
        """Report the length of the queue."""

    def batch(self, batch: Batch, seconds: float) -> None:
        """Count a batch that took `seconds`."""


@dataclass(frozen=True)
class _Ran:
    outcomes: list[Any]  # a result or an exception per item
    out_of_memory: bool


def _draining() -> ProblemError:
    return ProblemError("draining", "This replica is shutting down.", retry_after_seconds=1)


class BatchExecutor:
    """Runs what the batcher chooses, one batch at a time.

    Args:
        run: maps a key and payloads to as many results, in order; called on the executor's own thread.
        batcher: the queues.
        observer: where batches and queue lengths are reported.
    """

    def __init__(self, run: Run, batcher: Batcher, observer: Observer) -> None:
        self.fault: DeviceFault | None = None
        self._run = run
        self._batcher = batcher
        self._observer = observer
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._waiting: dict[int, asyncio.Future[tuple[Any, Timing]]] = {}
        self._arrived: dict[int, float] = {}
        self._ids = itertools.count()
        self._closed = False

    @property
    def busy_seconds(self) -> float:
        """Return the age of the running batch, seconds; 0 when idle."""
        running = self._batcher.running
        return 0.0 if running is None else time.monotonic() - running.started

    async def submit(self, key: Key, cost: int, payload: Any, seconds: float) -> tuple[Any, Timing]:
        """Queue one item and wait for its result. Cancelling the caller takes the item out of the queue.

        Args:
            key: what the item may share a batch with.
            cost: latent positions.
            payload: handed to `run`.
            seconds: time left until the deadline.
        Returns:
            the result and where the time went.
        Raises:
            ProblemError: `overloaded`, `deadline-exceeded`, `gpu-memory`, `draining`.
            DeviceFault: the accelerator broke while the item ran.
            Exception: what `run` raised for this very item.
        """
        if self._closed:
            raise _draining()
        loop = asyncio.get_running_loop()
        now = time.monotonic()
        item = Item(next(self._ids), key, cost, now + seconds, payload)
        self._batcher.submit(item, now)
        future = self._waiting[item.id] = loop.create_future()
        self._arrived[item.id] = now
        alarm = loop.call_later(seconds, self._expire)
        self._advance()
        try:
            return await future
        finally:
            alarm.cancel()
            self._batcher.cancel(item.id)
            self._waiting.pop(item.id, None)
            self._arrived.pop(item.id, None)
            self._report_queue()

    def close(self) -> None:
        """Refuse what waits and let the thread end after the running batch."""
        self._closed = True
        self._thread.shutdown(wait=False, cancel_futures=True)
        for item_id in list(self._waiting):
            self._answer(item_id, _draining())

    def _expire(self) -> None:
        for item in self._batcher.expire(time.monotonic()):
            self._answer(item.id, ProblemError("deadline-exceeded", "The deadline passed while the request waited."))

    def _advance(self) -> None:
        if self._batcher.running is not None:
            return
        self._expire()
        batch = self._batcher.next_batch(time.monotonic())
        self._report_queue()
        if batch is not None:
            ran = asyncio.get_running_loop().run_in_executor(self._thread, self._execute, batch)
            ran.add_done_callback(lambda future: self._finish(batch, future))

    def _finish(self, batch: Batch, future: asyncio.Future[_Ran]) -> None:
        self._batcher.complete(time.monotonic())
        seconds = time.monotonic() - batch.started
        self._observer.batch(batch, seconds)
        if future.cancelled():
            return
        ran = future.result()
        if ran.out_of_memory and len(batch.items) > 1:
            self._batcher.shrink(batch.key, batch.cost)
        for item, outcome in zip(batch.items, ran.outcomes, strict=True):
            if isinstance(outcome, DeviceFault):
                self.fault = outcome
            queue_ms = 1000 * (batch.started - self._arrived.get(item.id, batch.started))
            self._answer(item.id, outcome, Timing(queue_ms, 1000 * seconds, len(batch.items)))
        self._advance()

    def _answer(self, item_id: int, outcome: Any, timing: Timing | None = None) -> None:
        future = self._waiting.get(item_id)
        if future is None or future.done():  # its caller has gone
            return
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            assert timing is not None
            future.set_result((outcome, timing))

    def _report_queue(self) -> None:
        self._observer.queue(self._batcher.queued_requests, self._batcher.queued_tokens)

    def _execute(self, batch: Batch) -> _Ran:
        return self._attempt(batch.key, [item.payload for item in batch.items])

    def _attempt(self, key: Key, payloads: list[Any]) -> _Ran:
        try:
            results = list(self._run(key, payloads))
            if len(results) != len(payloads):
                raise RuntimeError(f"The engine answered {len(results)} of {len(payloads)} items of {key}.")
            return _Ran(results, False)
        except OutOfMemory:
            if len(payloads) == 1:
                detail = "The request does not fit into memory. Use a smaller size or fewer frames."
                return _Ran([ProblemError("gpu-memory", detail)], True)
            middle = len(payloads) // 2
            halves = [self._attempt(key, payloads[:middle]), self._attempt(key, payloads[middle:])]
            return _Ran([outcome for half in halves for outcome in half.outcomes], True)
        except DeviceFault as fault:
            return _Ran([fault] * len(payloads), False)
        except Exception as error:
            if len(payloads) == 1:
                return _Ran([error], False)
            alone = [self._attempt(key, [payload]) for payload in payloads]
            return _Ran([ran.outcomes[0] for ran in alone], any(ran.out_of_memory for ran in alone))
