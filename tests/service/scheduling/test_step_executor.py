"""The executor of steps over a scripted engine: who is answered, when slots are free, and that no reader slows it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import pytest
from waiting import SECONDS, until

from service.errors import ProblemError
from service.scheduling.executor import DeviceFault, OutOfMemory
from service.scheduling.mailbox import Mailbox
from service.scheduling.step_executor import StepExecutor, StepRequest
from service.scheduling.stepper import Capacity, Sequence
from service.types import JobProgress


class Engine:
    """Counts in place of computing; `gate` holds each step up, `failures` maps (call, payload or model) to an error."""

    def __init__(self) -> None:
        self.log: list[tuple[str, Any]] = []
        self.failures: dict[tuple[str, Any], Exception] = {}
        self.gate: threading.Semaphore | None = None

    def _call(self, name: str, what: Any) -> None:
        self.log.append((name, what))
        if error := self.failures.get((name, what)):
            raise error

    def join(self, sequence: Sequence) -> None:
        self._call("join", sequence.payload)

    def prefill(self, sequence: Sequence, tokens: int) -> None:
        self._call("prefill", sequence.payload)

    def step(self, model: str, sequences: Collection[Sequence]) -> None:
        if self.gate is not None:
            self.gate.acquire()
        self._call("step", model)

    def peek(self, sequence: Sequence) -> Any:
        self._call("peek", sequence.payload)
        return np.zeros(1, np.int32)

    def finish(self, sequence: Sequence) -> Any:
        self._call("finish", sequence.payload)
        return f"result of {sequence.payload}"

    def leave(self, sequence: Sequence) -> None:
        self._call("leave", sequence.payload)


class Observer:
    def __init__(self) -> None:
        self.steps, self.slots = 0, 0

    def generating(self, waiting: int, slots: int, oldest: float | None, positions: int) -> None:
        self.slots = slots

    def stepped(self, kind: str, steps: int, seconds: float) -> None:
        assert kind == "lm"
        self.steps += steps


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def observer() -> Observer:
    return Observer()


@pytest.fixture
def executor(engine: Engine, observer: Observer) -> Iterator[StepExecutor]:
    executor = StepExecutor(engine, {"m": Capacity(2, 4), "n": Capacity(2, 4)}, {"m": "lm", "n": "lm"}, 8, observer)
    yield executor
    executor.close()


def request(payload: str, model: str = "m", steps: int = 5, prefill: int = 0, **changes: Any) -> StepRequest:
    return StepRequest(model, 1, prefill, steps, payload, **changes)


def ignore(progress: JobProgress) -> None: ...


async def test_a_crowd_is_answered_each_its_own(executor: StepExecutor, observer: Observer) -> None:
    work = [request(f"{i}", "mn"[i % 2], 1 + i, prefill=i) for i in range(8)]
    answers = await asyncio.gather(*(executor.submit(one, ignore, 60) for one in work))
    assert [answer for answer, _ in answers] == [f"result of {i}" for i in range(8)]
    assert all(timing.queue_ms >= 0 and timing.compute_ms >= 0 and timing.batch_size >= 1 for _, timing in answers)
    await until(lambda: observer.slots == 0)
    assert observer.steps >= 8
    assert executor.step_seconds("m") is not None


async def test_a_cancelled_caller_frees_its_slots_within_two_steps(executor: StepExecutor, engine: Engine) -> None:
    engine.gate = threading.Semaphore(0)
    tasks = [asyncio.create_task(executor.submit(request(name, steps=1000), ignore, 60)) for name in "abc"]
    while ("join", "b") not in engine.log:
        engine.gate.release()
        await asyncio.sleep(0.001)
    tasks[0].cancel()
    await asyncio.gather(tasks[0], return_exceptions=True)
    steps = engine.log.count(("step", "m"))
    engine.gate.release(2)
    await until(lambda: ("join", "c") in engine.log)
    left = engine.log.index(("leave", "a"))
    assert engine.log[:left].count(("step", "m")) <= steps + 1
    assert engine.log.index(("join", "c")) == left + 1
    for task in tasks:
        task.cancel()
    engine.gate.release(2000)
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_progress_is_the_newest_and_a_reader_that_sleeps_slows_nothing(
    executor: StepExecutor, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.scheduling.step_executor.PROGRESS_SECONDS", 0.0)
    monkeypatch.setattr("service.scheduling.step_executor.PREVIEW_SECONDS", 0.0)
    seen: list[JobProgress] = []

    def block(progress: JobProgress) -> None:
        """Hold the event loop until the engine has finished alone."""
        seen.append(progress)
        if len(seen) == 2:
            finished.wait(SECONDS)

    finished = threading.Event()
    monkeypatch.setattr(engine, "finish", lambda sequence: finished.set())
    await executor.submit(request("a", steps=500, preview=True), block, 60)
    assert (seen[0].done, seen[0].position, seen[0].total) == (0, 0, 500)
    done = [progress.done for progress in seen]
    assert done == sorted(done)
    assert len(seen) < 100
    assert all(progress.codes is not None for progress in seen if progress.done)


async def test_a_deadline_ends_what_waits_and_what_runs(executor: StepExecutor, engine: Engine) -> None:
    late = [executor.submit(request(name, steps=10**9), ignore, 0.05) for name in "abc"]
    for outcome in await asyncio.gather(*late, return_exceptions=True):
        assert isinstance(outcome, ProblemError)
        assert outcome.code == "deadline-exceeded"
    assert (await executor.submit(request("d"), ignore, 60))[0] == "result of d"
    for name in "abc":
        assert (("leave", name) in engine.log) == (("join", name) in engine.log)


@pytest.mark.parametrize("call", ["join", "prefill", "finish"])
async def test_a_failure_is_its_own(executor: StepExecutor, engine: Engine, call: str) -> None:
    engine.failures[call, "bad"] = RuntimeError("bad")
    work = (executor.submit(request(name, prefill=2), ignore, 60) for name in ("bad", "good"))
    bad, good = await asyncio.gather(*work, return_exceptions=True)
    assert isinstance(bad, RuntimeError)
    assert not isinstance(good, BaseException)
    assert good[0] == "result of good"


@pytest.mark.parametrize("error", [RuntimeError("bad"), OutOfMemory("bad"), DeviceFault("bad")])
async def test_a_step_that_fails_takes_its_model_along(
    executor: StepExecutor, engine: Engine, error: Exception
) -> None:
    engine.failures["step", "m"] = error
    work = (executor.submit(request(name, name), ignore, 60) for name in "mn")
    bad, good = await asyncio.gather(*work, return_exceptions=True)
    assert isinstance(error, DeviceFault) or not isinstance(good, BaseException)
    if isinstance(error, OutOfMemory):
        assert isinstance(bad, ProblemError)
        assert bad.code == "gpu-memory"
    else:
        assert bad is error
    assert executor.fault is (error if isinstance(error, DeviceFault) else None)
    if executor.fault is not None:
        with pytest.raises(DeviceFault):
            await executor.submit(request("more"), ignore, 60)


async def test_a_closed_executor_refuses(executor: StepExecutor, engine: Engine) -> None:
    task = asyncio.create_task(executor.submit(request("a", steps=10**9), ignore, 60))
    await until(lambda: ("step", "m") in engine.log)
    executor.close()
    for work in (task, executor.submit(request("b"), ignore, 60)):
        with pytest.raises(ProblemError) as refused:
            await work
        assert refused.value.code == "draining"


async def test_a_step_that_hangs_shows(executor: StepExecutor, engine: Engine) -> None:
    engine.gate = threading.Semaphore(0)
    task = asyncio.create_task(executor.submit(request("a"), ignore, 60))
    await until(lambda: executor.busy_seconds > 0)
    engine.gate.release(10)
    await task
    await until(lambda: executor.busy_seconds == 0)


async def test_nobody_waits_for_a_thread_that_has_ended(
    executor: StepExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> Any:
        raise ValueError("a mistake of the scheduler")

    monkeypatch.setattr("service.scheduling.stepper.Stepper.complete", fail)
    for name in "ab":
        with pytest.raises(ValueError, match="mistake"):
            await executor.submit(request(name), ignore, 60)
    assert isinstance(executor.fault, ValueError)


async def test_a_mailbox_keeps_the_newest() -> None:
    mailbox: Mailbox[int] = Mailbox()
    for value in range(3):
        mailbox.put(value)
    assert await mailbox.get() == 2
    mailbox.put(7)
    assert await mailbox.get() == 7
