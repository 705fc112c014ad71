"""The asyncio shell around the stepper: callers await, one dedicated thread takes turns on an engine."""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from service.errors import ProblemError
from service.scheduling.executor import DeviceFault, OutOfMemory
from service.scheduling.stepper import Capacity, Sequence, Stepper, Turn
from service.types import JobProgress, Timing

PROGRESS_SECONDS = 0.2  # between two reports to the callers; a report costs the event loop one callback
PREVIEW_SECONDS = 0.5  # between two readings of unfinished codes, which wait for the accelerator

CLOSE_SECONDS = 5.0  # for the turn that runs; a thread within the accelerator's library must not see the process end

log = logging.getLogger("ray.serve")

OnProgress = Callable[[JobProgress], None]


class StepEngine(Protocol):
    """The engine of the executor; called on the executor's own thread alone."""

    def join(self, sequence: Sequence) -> None:
        """Give a sequence its slots."""

    def prefill(self, sequence: Sequence, tokens: int) -> None:
        """Compute the next `tokens` tokens of its prompt."""

    def step(self, model: str, sequences: Collection[Sequence]) -> None:
        """Advance sequences of a model by one step; it may return before the accelerator has computed it."""

    def peek(self, sequence: Sequence) -> Any:
        """Return the codes of a sequence so far."""

    def finish(self, sequence: Sequence) -> Any:
        """Return the result of a sequence and free its slots."""

    def leave(self, sequence: Sequence) -> None:
        """Free the slots of a sequence that has been given up."""


class StepObserver(Protocol):
    """The observer of the executor; called on the event loop."""

    def generating(self, waiting: int, slots: int, oldest: float | None, positions: int) -> None:
        """Report the state of the lanes.

        Args:
            waiting: sequences that wait for slots.
            slots: in use.
            oldest: when the oldest of those that wait arrived, on the monotonic clock.
            positions: that the key-value caches of language models hold.
        """

    def stepped(self, kind: str, steps: int, seconds: float) -> None:
        """Count the steps of one kind of model since the last report, and the time of the latest, seconds."""


@dataclass(frozen=True, eq=False)
class StepRequest:
    """The work of one caller.

    Args:
        model: name of a model of the engine.
        slots, prefill, steps: as in `Sequence`.
        payload: handed to the engine.
        watched: whether its progress is reported at all; `preview`: whether that carries codes.
    """

    model: str
    slots: int
    prefill: int
    steps: int
    payload: Any
    watched: bool = True
    preview: bool = False


@dataclass(eq=False)
class _Caller:
    request: StepRequest
    future: asyncio.Future[Any]
    on_progress: OnProgress
    arrived: float
    started: float | None = None


class StepExecutor:
    """An executor that runs what the stepper chooses, turn by turn; no reader of progress holds it up.

    Args:
        engine: runs joins, prefills and steps; called on the executor's own thread.
        capacities: slots and prefill chunk of each model.
        kinds: kind of each model, a label of metrics.
        max_waiting: sequences that may wait.
        observer: where steps and queue lengths are reported.
    """

    def __init__(
        self,
        engine: StepEngine,
        capacities: Mapping[str, Capacity],
        kinds: Mapping[str, str],
        max_waiting: int,
        observer: StepObserver,
    ) -> None:
        self.fault: Exception | None = None
        self._engine = engine
        self._kinds = kinds
        self._observer = observer
        self._stepper = Stepper(capacities, max_waiting)
        self._changed = threading.Condition()  # guards all below
        self._callers: dict[int, _Caller] = {}
        self._ids = itertools.count()
        self._steps = dict.fromkeys(kinds.values(), 0)  # since the last report
        self._states: dict[int, JobProgress] = {}  # the newest report, until the event loop fetches it
        self._pending = False
        self._seconds = 0.0  # of the turn before that report
        self._closed = False
        self._turn_started: float | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="generator", daemon=True)

    @property
    def busy_seconds(self) -> float:
        """Return the age of the running turn, seconds; 0 when idle."""
        started = self._turn_started
        return 0.0 if started is None else time.monotonic() - started

    def step_seconds(self, model: str) -> float | None:
        """Return the recent time of a step of a model, seconds."""
        with self._changed:
            return self._stepper.step_seconds(model)

    def sample_seconds(self, model: str) -> float | None:
        """Return the recent share of a sample in the time of a step of a model, seconds."""
        with self._changed:
            return self._stepper.sample_seconds(model)

    async def submit(self, request: StepRequest, on_progress: OnProgress, seconds: float) -> tuple[Any, Timing]:
        """Queue one sequence and wait for its result. Cancelling the caller frees its slots at the next turn.

        Args:
            request: the work.
            on_progress: called on the event loop with the newest state.
            seconds: time left until the deadline.

        Returns:
            the engine's result and where the time went.

        Raises:
            ProblemError: `overloaded`, `deadline-exceeded`, `gpu-memory`, `draining`.
            DeviceFault: the accelerator broke.
            Exception: what the engine raised for this sequence.
        """
        loop = asyncio.get_running_loop()
        now = time.monotonic()
        with self._changed:
            if self._closed:
                raise _draining()
            if self.fault is not None:
                raise self.fault
            number = next(self._ids)
            self._stepper.submit(
                Sequence(
                    number,
                    request.model,
                    request.slots,
                    request.prefill,
                    request.steps,
                    now + seconds,
                    request.payload,
                )
            )
            caller = self._callers[number] = _Caller(request, loop.create_future(), on_progress, now)
            self._loop = loop
            if not self._thread.is_alive():
                self._thread.start()
            progress = JobProgress(0, request.steps, self._stepper.position(number))
            self._changed.notify()
        on_progress(progress)
        try:
            return await caller.future
        finally:
            with self._changed:
                self._callers.pop(number, None)
                self._stepper.cancel(number)
                self._changed.notify()

    def close(self) -> None:
        """Refuse what waits or runs, and let the thread end after its turn."""
        with self._changed:
            self._closed = True
            callers = list(self._callers.values())
            self._changed.notify()
        for caller in callers:
            _answer(caller.future, _draining())
        if self._thread.is_alive():
            self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        try:
            self._take_turns()
        except Exception as error:  # ours, not the engine's; nobody may wait for an answer that never comes
            log.exception("the thread of the generators ended")
            with self._changed:
                self.fault = error
                every = dict.fromkeys(self._callers, error)
            self._resolve(every)

    def _take_turns(self) -> None:
        reported = previewed = 0.0
        while True:
            with self._changed:
                now = time.monotonic()
                turn = self._stepper.plan(now)
                while turn.empty and not self._closed:
                    deadline = self._stepper.deadline()
                    self._changed.wait(None if deadline is None else max(0.0, deadline - now))
                    now = time.monotonic()
                    turn = self._stepper.plan(now)
                if self._closed:
                    return
                self._turn_started = now
                for sequence in turn.joins:
                    if caller := self._callers.get(sequence.id):
                        caller.started = now
            self._resolve({sequence.id: _late() for sequence in turn.expired})
            outcomes = self._execute(turn)
            with self._changed:
                finished = self._stepper.complete(turn, time.monotonic())
                for model, _ in turn.steps:
                    self._steps[self._kinds[model]] += 1
            for sequence in finished:
                outcomes[sequence.id] = self._attempt(self._engine.finish, sequence)
            self._turn_started = None
            now = time.monotonic()
            self._resolve(outcomes)
            if now - reported > PROGRESS_SECONDS or turn.joins or turn.leaves or finished:
                preview = now - previewed > PREVIEW_SECONDS
                previewed = now if preview else previewed
                reported = now
                self._report(preview, now - turn.started)

    def _execute(self, turn: Turn) -> dict[int, Exception]:
        """Carry out a turn; return the failures of single sequences, which the stepper has given up."""
        failures: dict[int, Exception] = {}

        def fail(sequences: Collection[Sequence], error: Exception) -> None:
            failures.update({sequence.id: error for sequence in sequences})
            with self._changed:
                for sequence in sequences:
                    self._stepper.cancel(sequence.id)

        for sequence in turn.leaves:
            self._attempt(self._engine.leave, sequence)
        for sequence in turn.joins:
            if isinstance(error := self._attempt(self._engine.join, sequence), Exception):
                fail([sequence], error)
        for sequence, tokens in turn.prefills:
            if sequence.id not in failures and isinstance(
                error := self._attempt(self._engine.prefill, sequence, tokens), Exception
            ):
                fail([sequence], error)
        for model, sequences in turn.steps:
            live = [sequence for sequence in sequences if sequence.id not in failures]
            if live and isinstance(error := self._attempt(self._engine.step, model, live), Exception):
                fail(live, error)
        return failures

    def _attempt(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Return the result of the engine, or what it raised."""
        try:
            return work(*arguments)
        except OutOfMemory:
            return ProblemError("gpu-memory", "The sample does not fit into memory. Use fewer frames or less guidance.")
        except DeviceFault as fault:
            self.fault = fault
            return fault
        except Exception as error:
            return error

    def _resolve(self, outcomes: Mapping[int, Any]) -> None:
        """Answer callers on their loop."""
        now = time.monotonic()
        with self._changed:
            company = len(outcomes) + sum(1 for _ in self._stepper.running())
            found = [(self._callers.get(number), outcome) for number, outcome in outcomes.items()]
        for caller, outcome in found:
            if caller is None:
                continue
            if not isinstance(outcome, Exception):
                started = caller.started or now
                outcome = (outcome, Timing(1000 * (started - caller.arrived), 1000 * (now - started), company))
            self._call(_answer, caller.future, outcome)

    def _report(self, preview: bool, seconds: float) -> None:
        """Leave the newest state for the event loop, which sees nothing of an older one that it did not fetch."""
        with self._changed:
            callers = dict(self._callers)
            running = {sequence.id: sequence for sequence in self._stepper.running()}
            states = {
                number: JobProgress(self._stepper.done(number), caller.request.steps, self._stepper.position(number))
                for number, caller in callers.items()
                if caller.request.watched and self._stepper.holds(number)
            }
        for number, state in states.items():
            if preview and callers[number].request.preview and number in running and state.done:
                codes = self._attempt(self._engine.peek, running[number])
                if not isinstance(codes, Exception):
                    states[number] = replace(state, codes=codes)
        with self._changed:
            pending, self._pending = self._pending, True
            self._states, self._seconds = states, seconds
        if not pending:
            self._call(self._deliver)

    def _deliver(self) -> None:
        with self._changed:
            states, self._states, self._pending = self._states, {}, False
            steps, self._steps = self._steps, dict.fromkeys(self._steps, 0)
            callers = [(self._callers.get(number), state) for number, state in states.items()]
            oldest = min((self._callers[number].arrived for number in self._stepper.queued()), default=None)
            cached = sum(
                self._stepper.cached(sequence)
                for sequence in self._stepper.running()
                if self._kinds[sequence.model] == "lm"
            )
            load = (self._stepper.waiting, self._stepper.slots_in_use, oldest, cached)
        self._observer.generating(*load)
        for kind, count in steps.items():
            if count:
                self._observer.stepped(kind, count, self._seconds)
        for caller, state in callers:
            if caller is not None and not caller.future.done():
                caller.on_progress(state)

    def _call(self, function: Callable[..., None], *arguments: Any) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:  # the loop has ended, and its callers with it
            self._closed = True


def _answer(future: asyncio.Future[Any], outcome: Any) -> None:
    if future.done():  # its caller has gone
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


def _draining() -> ProblemError:
    return ProblemError("draining", "This replica is shutting down.", retry_after_seconds=1)


def _late() -> ProblemError:
    return ProblemError("deadline-exceeded", "The deadline passed before the sample was finished. Ask for less.")
