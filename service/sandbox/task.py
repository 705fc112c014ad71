"""One piece of work for a media worker, from the queue to its result."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, Generic, TypeVar

from service.errors import ProblemError
from service.sandbox.lane import Lane
from service.sandbox.picture_reader import Done, Lost

Result = TypeVar("Result")
Begin = Callable[[Lane, Done], bool]


def never(lane: Lane, done: Done) -> bool:
    """Begin nothing on the event loop."""
    return False


class Task(Generic[Result]):
    """Work of a lane, on the event loop or in one of the pool's threads, and its result.

    Args:
        run: does it in a thread, after the loss of the process that is given where the event loop had begun it.
        cancel: ends it early, once nobody waits for the result.
        measured: its time says how fast workers are.
        begin: begins it on the event loop; returns False where it cannot.
    """

    def __init__(
        self,
        run: Callable[[Lane, Lost | None], Result],
        cancel: Callable[[Lane], None],
        measured: bool = True,
        begin: Begin = never,
    ) -> None:
        self.cancel, self.measured = cancel, measured
        self._run, self._begin = run, begin
        self.result: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self.lane: Lane | None = None  # where it runs now
        self.queued = 0.0  # when, on the pool's clock
        self.waited = 0.0  # seconds for a lane

    def start(self, lane: Lane, threads: Executor, ended: Callable[[Result | BaseException], None]) -> None:
        """Run in a lane.

        Args:
            lane: an idle one.
            threads: one for each lane.
            ended: called once, later, with the result or the error.
        """
        self.lane = lane

        def on_loop(outcome: Any) -> None:
            if isinstance(outcome, Lost):
                in_thread(outcome)
            else:
                ended(outcome)

        def in_thread(loss: Lost | None) -> None:
            lane.leave_loop()
            running = asyncio.get_running_loop().run_in_executor(threads, self._run, lane, loss)
            running.add_done_callback(lambda running: ended(_outcome(running)))

        if not self._begin(lane, on_loop):
            in_thread(None)

    def finish(self, result: Result) -> None:
        """Give the result to whoever waits for it, if anybody does."""
        if not self.result.done():
            self.result.set_result(result)

    def fail(self, error: BaseException) -> None:
        """Give an error instead."""
        if not self.result.done():
            self.result.set_exception(error)


def _outcome(running: asyncio.Future[Any]) -> Any:
    if running.cancelled():
        return ProblemError("draining", "The service is shutting down.")
    return running.exception() or running.result()
