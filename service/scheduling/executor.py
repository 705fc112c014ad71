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
Done = Callable[[Any, Timing | None], None]  # a result with its timing, or an exception


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
        self._waiting: dict[int, Done] = {}
        self._arrived: dict[int, float] = {}
        self._ids = itertools.count()
        self._closed = False
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = 0.0

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
        future: asyncio.Future[tuple[Any, Timing]] = asyncio.get_running_loop().create_future()

        def done(outcome: Any, timing: Timing | None) -> None:
            if future.done():  # its caller has gone
                return
            if isinstance(outcome, BaseException):
                future.set_exception(outcome)
            else:
                assert timing is not None
                future.set_result((outcome, timing))

        item_id = self.start(key, cost, payload, seconds, done)
        try:
            return await future
        finally:
            self.cancel(item_id)

    def start(self, key: Key, cost: int, payload: Any, seconds: float, done: Done) -> int:
        """Queue one item, without a task of its own; return its number.

        Args:
            key, cost, payload, seconds: as for `submit`.
            done: called once, on the event loop, unless `cancel` returned True: with a result and its timing, or with
                what `submit` raises. Nobody reads the payload any more.

        Raises:
            ProblemError: `overloaded`, `draining`.
        """
        if self._closed:
            raise _draining()
        now = time.monotonic()
        item = Item(next(self._ids), key, cost, now + seconds, payload)
        self._batcher.submit(item, now)
        self._waiting[item.id] = done
        self._arrived[item.id] = now
        self._ring_at(item.deadline, now)
        self._advance()
        self._report_queue()
        return item.id

    def cancel(self, item_id: int) -> bool:
        """Take an item out of the queue; False if it runs or is over."""
        if not self._batcher.cancel(item_id):
            return False
        self._forget(item_id)
        self._report_queue()
        return True

    def close(self) -> None:
        """Refuse what waits and runs, and let the thread end after the running batch."""
        self._closed = True
        self._thread.shutdown(wait=False, cancel_futures=True)
        if self._alarm is not None:
            self._alarm.cancel()
        for item_id in list(self._waiting):
            self._batcher.cancel(item_id)
            self._answer(item_id, _draining())

    def _expire(self) -> None:
        for item in self._batcher.expire(time.monotonic()):
            self._answer(item.id, ProblemError("deadline-exceeded", "The deadline passed while the request waited."))

    def _ring_at(self, deadline: float, now: float) -> None:
        """Expire what waits at that time; one alarm rings for all, the earliest first."""
        if self._alarm is not None and deadline >= self._alarm_at:
            return
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_at = deadline
        self._alarm = asyncio.get_running_loop().call_later(max(0.0, deadline - now), self._ring)

    def _ring(self) -> None:
        self._alarm = None
        self._expire()
        self._report_queue()
        earliest = self._batcher.earliest_deadline
        if earliest is not None:
            self._ring_at(earliest, time.monotonic())

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
        ran = _Ran([_draining()] * len(batch.items), False) if future.cancelled() else future.result()
        if ran.out_of_memory and len(batch.items) > 1:
            self._batcher.shrink(batch.key, batch.cost)
        for item, outcome in zip(batch.items, ran.outcomes, strict=True):
            if isinstance(outcome, DeviceFault):
                self.fault = outcome
            queue_ms = 1000 * (batch.started - self._arrived.get(item.id, batch.started))
            self._answer(item.id, outcome, Timing(queue_ms, 1000 * seconds, len(batch.items)))
        self._advance()

    def _answer(self, item_id: int, outcome: Any, timing: Timing | None = None) -> None:
        done = self._forget(item_id)
        if done is not None:
            done(outcome, timing)

    def _forget(self, item_id: int) -> Done | None:
        self._arrived.pop(item_id, None)
        return self._waiting.pop(item_id, None)

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
