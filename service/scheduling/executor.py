"""The asyncio shell around the batcher: callers await, one dedicated thread feeds the engine, failures stay single."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol

from service.errors import ProblemError
from service.flow import current as current_flow
from service.scheduling.batcher import Batch, Batcher
from service.scheduling.item import Item, Key
from service.types import Done, Message, Timing, TokenizerKey

Fetch = Callable[[], Sequence[Any]]  # waits for the results of a batch
Launch = Callable[[Any, Sequence[Any]], Fetch]  # starts a batch: a key of its own kind, and payloads
Failure = Literal["memory", "error"]

CLOSE_SECONDS = 5.0  # for what runs; a thread within the accelerator's library must not see the process end

log = logging.getLogger("ray.serve")


class OutOfMemory(Exception):  # noqa: N818  an event of the accelerator, named as its makers name it
    """The batch did not fit into the accelerator's memory; a smaller one may."""


class DeviceFault(Exception):  # noqa: N818
    """The accelerator is unusable from this process; only a new process can help."""


class Observer(Protocol):
    """The observer of the executor; called on the event loop, but for `queue`."""

    def queue(self, requests: int, tokens: int, oldest: float | None) -> None:
        """Report the length of the queue, on any thread, and when its oldest item arrived on the monotonic clock."""

    def batch(self, batch: Batch, seconds: float, waits: Sequence[float]) -> None:
        """Count a batch that took `seconds`, after the messages of its items that were answered had waited."""

    def split(self, batch: Batch, failure: Failure) -> None:
        """Count a batch whose parts ran again, since the whole failed."""

    def done(self, op: Any, frames: int, tokens: int, model: str, requests: int) -> None:
        """Count the items of a batch that have results, with their frames and positions."""


class _Waiting(NamedTuple):
    """An item that is not over.

    Args:
        done: takes its outcome.
        place: of the item in its message.
        arrived: seconds on the monotonic clock.
    """

    done: Done
    place: int
    arrived: float


class _Flight:
    """A batch that the engine has, or could not take.

    Attributes:
        results: waits for the results, or raises what the launch raised.
        failure: the reason why its parts ran again; None if they did not.
    """

    def __init__(self, batch: Batch, launch: Launch) -> None:
        self.batch = batch
        self.failure: Failure | None = None
        self.results: Fetch
        self.launched = False
        try:
            self.results = launch(batch.key, self.payloads)
            self.launched = True
        except Exception as error:
            self.results = partial(_raise, error)

    def settle(self) -> None:
        """Wait for the results now, so that the device holds nothing of the batch."""
        try:
            results = self.results()
            self.results = lambda: results
        except Exception as error:
            self.results = partial(_raise, error)

    @property
    def payloads(self) -> list[Any]:
        """Return the payloads of the items."""
        return [item.payload for item in self.batch.items]


class BatchExecutor:
    """An executor that runs what the batcher chooses, without a visit to the event loop between two batches.

    Args:
        launch: starts a batch and returns the call that waits for its results, in order; both run on the executor's own
            thread. Batches are fetched in the order of their launch.
        batcher: the queues.
        observer: where batches and queue lengths are reported.
    """

    def __init__(self, launch: Launch, batcher: Batcher, observer: Observer) -> None:
        self.fault: Exception | None = None
        self._launch = launch
        self._observer = observer
        self._changed = threading.Condition()  # guards the batcher, and wakes the thread
        self._batcher = batcher
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._flights: deque[_Flight] = deque()  # of the thread: behind the one that lands
        # What is not over, by its number: the event loop changes it, and what is queued under the lock.
        self._waiting: dict[int, _Waiting] = {}
        # all below belong to the event loop
        self._loop: asyncio.AbstractEventLoop | None = None
        self._next_id = 0
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = 0.0

    @property
    def busy_seconds(self) -> float:
        """Return the age of the oldest running batch, seconds; 0 when idle."""
        with self._changed:
            return time.monotonic() - self._batcher.running[0].started if self._batcher.running else 0.0

    async def submit(self, key: TokenizerKey, cost: int, payload: Any, seconds: float) -> tuple[Any, Timing]:
        """Queue one item and wait for its result. Cancelling the caller takes the item out of the queue.

        Args:
            key: what the item may share a batch with.
            cost: latent positions.
            payload: handed to `launch`.
            seconds: time left until the deadline.

        Returns:
            the result and where the time went.

        Raises:
            ProblemError: `overloaded`, `deadline-exceeded`, `gpu-memory`, `draining`.
            DeviceFault: the accelerator broke while the item ran.
            Exception: what the engine raised for this very item.
        """
        future: asyncio.Future[tuple[Any, Timing]] = asyncio.get_running_loop().create_future()

        def done(_: int, outcome: Any, timing: Timing | None) -> None:
            if future.done():  # its caller has gone
                return
            if isinstance(outcome, BaseException):
                future.set_exception(outcome)
            else:
                assert timing is not None
                future.set_result((outcome, timing))

        [admitted] = self.start([Message(key, cost, [payload], seconds, done, current_flow.get())])
        if isinstance(admitted, Exception):
            raise admitted
        try:
            return await future
        finally:
            self.cancel(admitted[0])

    def start(self, messages: Sequence[Message]) -> list[Sequence[int] | Exception]:
        """Queue the items of messages that came at one moment, without tasks of their own.

        Returns:
            of each message the numbers of its items, or why they were refused: `overloaded` or `draining`, a
            `ProblemError`. An item that was not refused is answered by `done`, with a result and its timing or what
            `submit` raises, unless `cancel` returns True.
        """
        if self._closed:
            return [_draining() for _ in messages]
        now = time.monotonic()
        with self._changed:
            admitted = [self._admit(message, now) for message in messages]
            self._report_queue()
            self._changed.notify()
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._thread.start()
        fates = zip(messages, admitted, strict=True)
        waiting = [message.seconds for message, fate in fates if not isinstance(fate, Exception)]
        if waiting:  # a crowd of refusals would ring for nothing
            self._ring_at(now + min(waiting), now)
        return admitted

    def _admit(self, message: Message, now: float) -> Sequence[int] | Exception:
        """Queue the items of a message or refuse them; call it under the lock."""
        key, cost, payloads, seconds, done, flow = message
        first, deadline = self._next_id, now + seconds
        numbers = range(first, first + len(payloads))
        pairs = zip(numbers, payloads, strict=True)
        items = [Item(number, key, cost, deadline, payload, flow, first) for number, payload in pairs]
        try:
            self._batcher.submit(items, now)
        except Exception as refusal:  # those that came at the same moment have a fate of their own
            return refusal
        self._next_id = numbers.stop
        for place, number in enumerate(numbers):
            self._waiting[number] = _Waiting(done, place, now)
        return numbers

    def cancel(self, item_id: int) -> bool:
        """Take an item out of the queue; False if it runs or is over."""
        with self._changed:
            if not self._batcher.cancel(item_id):
                return False
            del self._waiting[item_id]
            self._report_queue()
        return True

    def close(self) -> None:
        """Refuse what waits and runs, and let the thread end after what it runs."""
        with self._changed:
            self._closed = True
            for item_id in self._waiting:
                self._batcher.cancel(item_id)
            self._report_queue()
            self._changed.notify()
        if self._alarm is not None:
            self._alarm.cancel()
        for item_id in list(self._waiting):
            self._answer(item_id, _draining())
        if self._thread.is_alive():
            self._thread.join(CLOSE_SECONDS)

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
        now = time.monotonic()
        with self._changed:
            expired, earliest = self._batcher.expire(now), self._batcher.earliest_deadline
            self._report_queue()
        self._refuse_late(expired)
        if earliest is not None:
            self._ring_at(earliest, now)

    def _refuse_late(self, expired: Sequence[Item]) -> None:
        for item in expired:
            if item.id in self._waiting:  # `close` may have answered meanwhile
                detail = "The deadline passed while the request waited."
                self._answer(item.id, ProblemError("deadline-exceeded", detail))

    def _finish(self, flight: _Flight, outcomes: Sequence[Any], seconds: float) -> None:
        batch, begun = flight.batch, time.monotonic() - seconds
        timings: dict[int | None, Timing] = {}  # of each message
        answers: list[tuple[int, Any, Timing]] = []
        size, answered, cost = len(batch.items), 0, 0
        for item, outcome in zip(batch.items, outcomes, strict=True):
            if (waiting := self._waiting.get(item.id)) is None:
                continue
            if (timing := timings.get(item.group)) is None:
                timing = timings[item.group] = Timing(1000 * (begun - waiting.arrived), 1000 * seconds, size)
            if not isinstance(outcome, BaseException):
                answered += 1
                cost += item.cost
            answers.append((item.id, outcome, timing))
        try:  # before the answers, so that whoever has one finds it counted
            self._observer.batch(batch, seconds, [timing.queue_ms / 1000 for timing in timings.values()])
            if answered:
                key = batch.key
                self._observer.done(key.op, answered * key.frames, cost, key.model, answered)
            if flight.failure is not None:
                self._observer.split(batch, flight.failure)
        finally:
            for answer in answers:
                self._answer(*answer)

    def _answer(self, item_id: int, outcome: Any, timing: Timing | None = None) -> None:
        done, place, _ = self._waiting.pop(item_id)
        try:
            done(place, outcome, timing)
        except Exception:  # the others of its batch have answers too
            log.exception("an answer could not be handed over")

    def _report_queue(self) -> None:
        """Report the queue; call it under the lock."""
        oldest = self._batcher.oldest
        arrived = None if oldest is None else self._waiting[oldest.id].arrived
        self._observer.queue(self._batcher.queued_requests, self._batcher.queued_tokens, arrived)

    def _run(self) -> None:
        try:
            self._feed()
        except Exception as error:  # ours, not the engine's; nobody may wait for an answer that never comes
            log.exception("the thread of the engine ended")
            self.fault = error
            self._call(self.close)

    def _feed(self) -> None:
        """Launch batches as early as the batcher has them, and fetch the first of them when it has no more."""
        flights = self._flights
        while True:
            with self._changed:
                while (batch := self._next_batch()) is None and not flights and not self._closed:
                    self._changed.wait()
            if batch is not None:
                flight = _Flight(batch, self._launch)
                if not flight.launched and flights:
                    while flights:
                        self._land(flights.popleft())
                    flight = _Flight(batch, self._launch)  # again, with the memory that the others held
                flights.append(flight)
                if not flight.launched:
                    self._land(flights.popleft())
            elif flights:
                self._land(flights.popleft())
            else:
                return

    def _next_batch(self) -> Batch | None:
        now = time.monotonic()
        if expired := self._batcher.expire(now):
            self._call(self._refuse_late, expired)
        batch = self._batcher.next_batch(now)
        if batch is not None or expired:
            self._report_queue()
        return batch

    def _land(self, flight: _Flight) -> None:
        """Wait for the batch that was launched first, and have its callers answered."""
        batch, outcomes = flight.batch, self._attempt(flight, flight.payloads, flight.results)
        with self._changed:
            seconds = self._batcher.complete(time.monotonic())
            if flight.failure == "memory":  # last: the end of a batch lets its budget grow
                self._batcher.shrink(batch.key, batch.cost)
        self._call(self._finish, flight, outcomes, seconds)

    def _attempt(self, flight: _Flight, payloads: Sequence[Any], results: Fetch) -> list[Any]:
        """Return a result or an exception for each payload. Halves of what failed run again, down to single items."""
        if self.fault is not None:
            return [self.fault] * len(payloads)
        key = flight.batch.key
        try:
            outcomes = list(results())
            if len(outcomes) != len(payloads):
                raise RuntimeError(f"The engine answered {len(outcomes)} of {len(payloads)} items of {key}.")
            return outcomes
        except DeviceFault as fault:
            self.fault = fault
            return [fault] * len(payloads)
        except Exception as error:
            failure: Failure = "memory" if isinstance(error, OutOfMemory) else "error"
            if len(payloads) == 1:
                return [_too_large() if failure == "memory" else error]
        if flight.failure != "memory":
            flight.failure = failure
        if failure == "memory":
            for other in self._flights:  # whose memory the halves may need
                other.settle()
        outcomes, middle = [], len(payloads) // 2
        for half in (payloads[:middle], payloads[middle:]):
            outcomes += self._attempt(flight, half, partial(self._run_alone, key, half))
        return outcomes

    def _run_alone(self, key: Key, payloads: Sequence[Any]) -> Sequence[Any]:
        return self._launch(key, payloads)()

    def _call(self, function: Callable[..., None], *arguments: Any) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:  # the loop has ended, and the callers with it
            self._closed = True


def _raise(error: Exception) -> Sequence[Any]:
    raise error


def _draining() -> ProblemError:
    return ProblemError("draining", "This replica is shutting down.", retry_after_seconds=1)


def _too_large() -> ProblemError:
    return ProblemError("gpu-memory", "The request does not fit into memory. Use a smaller size or fewer frames.")
