"""The executor with real threads and a scripted engine: who gets which answer when things go right and wrong."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from waiting import SECONDS, until

from service.errors import ProblemError
from service.scheduling.batcher import Batch, Batcher
from service.scheduling.executor import BatchExecutor, DeviceFault, OutOfMemory
from service.types import Message, TokenizerKey

KEY = TokenizerKey("m", "encode", "pixels", (1, 8, 8))
OTHER = TokenizerKey("m", "decode", "tokens", (1, 8, 8))


@dataclass
class Engine:
    """Doubles its payloads; the first batch waits for `gate`."""

    fails: Callable[[Sequence[Any]], Exception | None] = lambda payloads: None
    gate: threading.Event = field(default_factory=threading.Event)
    entered: threading.Event = field(default_factory=threading.Event)
    batches: list[list[Any]] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)

    def launch(self, key: TokenizerKey, payloads: Sequence[Any]) -> Callable[[], Sequence[Any]]:
        return partial(self.run, payloads)

    def run(self, payloads: Sequence[Any]) -> Sequence[Any]:
        self.entered.set()
        self.gate.wait()
        self.threads.add(threading.get_ident())
        self.batches.append(list(payloads))
        if (error := self.fails(payloads)) is not None:
            raise error
        return [2 * payload for payload in payloads]


@dataclass
class Reports:
    batches: list[Batch] = field(default_factory=list)
    queues: list[tuple[int, int]] = field(default_factory=list)
    splits: list[tuple[int, str]] = field(default_factory=list)

    def queue(self, requests: int, tokens: int, oldest: float | None) -> None:
        self.queues.append((requests, tokens))

    def batch(self, batch: Batch, seconds: float, waits: Sequence[float]) -> None:
        self.batches.append(batch)

    def split(self, batch: Batch, failure: str) -> None:
        self.splits.append((len(batch.items), failure))

    def done(self, op: str, frames: int, tokens: int, model: str, requests: int) -> None: ...


@dataclass
class Rig:
    engine: Engine
    batcher: Batcher
    reports: Reports
    executor: BatchExecutor

    async def occupy(self) -> asyncio.Task[Any]:
        """Make the engine busy with one item until the gate opens."""
        task = asyncio.create_task(self.executor.submit(OTHER, 1, 0, 60))
        await asyncio.to_thread(self.engine.entered.wait)
        return task

    async def crowd(self, payloads: Sequence[Any], cost: int = 1) -> list[asyncio.Task[Any]]:
        """Submit items that have to wait, so that they form batches."""
        tasks = [asyncio.create_task(self.executor.submit(KEY, cost, payload, 60)) for payload in payloads]
        await asyncio.sleep(0)
        return tasks


@pytest.fixture
def reports() -> Reports:
    return Reports()


@pytest.fixture
async def rig(reports: Reports) -> AsyncIterator[Rig]:
    engine, batcher = Engine(), Batcher(64, 8, 1000)
    executor = BatchExecutor(engine.launch, batcher, reports)
    yield Rig(engine, batcher, reports, executor)
    engine.gate.set()
    executor.close()


async def test_what_arrives_while_a_batch_runs_forms_the_next(rig: Rig) -> None:
    first = await rig.occupy()
    crowd = await rig.crowd(range(10))
    rig.engine.gate.set()
    answers = await asyncio.gather(first, *crowd)
    assert [result for result, _ in answers] == [0, *(2 * n for n in range(10))]
    assert rig.engine.batches == [[0], list(range(8)), [8, 9]]
    assert [timing.batch_size for _, timing in answers] == [1] + [8] * 8 + [2] * 2
    assert len(rig.engine.threads) == 1
    assert rig.engine.threads != {threading.get_ident()}
    assert [batch.stop_reason for batch in rig.reports.batches] == ["drained", "count", "drained"]
    assert rig.reports.queues[-1] == (0, 0)


async def test_timing_says_how_long_an_item_waited_and_ran(rig: Rig) -> None:
    began = time.monotonic()
    first = await rig.occupy()
    (second,) = await rig.crowd([1])
    both = time.monotonic()
    await until(lambda: time.monotonic() > both + 0.02)
    rig.engine.gate.set()
    (_, ran), (_, waited) = await asyncio.gather(first, second)
    elapsed_ms = 1000 * (time.monotonic() - began)
    assert min(ran.compute_ms, waited.queue_ms) >= 20
    for timing in (ran, waited):
        assert min(timing.queue_ms, timing.compute_ms) >= 0
        assert timing.queue_ms + timing.compute_ms <= elapsed_ms


async def test_only_the_poisonous_item_fails(rig: Rig) -> None:
    rig.engine.fails = lambda payloads: ValueError("poison") if 3 in payloads else None
    first = await rig.occupy()
    crowd = await rig.crowd(range(6))
    rig.engine.gate.set()
    answers = await asyncio.gather(first, *crowd, return_exceptions=True)
    assert isinstance(answers[4], ValueError)
    assert [answer[0] for n, answer in enumerate(answers) if n != 4] == [0, 0, 2, 4, 8, 10]
    assert rig.engine.batches == [[0], list(range(6)), [0, 1, 2], [3, 4, 5], [3], [4, 5]], "by halves"
    assert rig.reports.splits == [(6, "error")]


async def test_out_of_memory_halves_the_batch_and_the_budget(rig: Rig) -> None:
    rig.engine.fails = lambda payloads: OutOfMemory() if len(payloads) > 2 else None
    first = await rig.occupy()
    crowd = await rig.crowd(range(8), cost=8)
    rig.engine.gate.set()
    answers = await asyncio.gather(first, *crowd)
    assert [result for result, _ in answers] == [0, *(2 * n for n in range(8))]
    assert rig.reports.splits == [(8, "memory")]
    assert rig.batcher.budget(KEY) == 32
    assert rig.batcher.budget(OTHER) == 64


async def test_a_batch_that_does_not_fit_does_not_grow_its_budget(rig: Rig) -> None:
    rig.engine.fails = lambda payloads: OutOfMemory() if len(payloads) > 2 else None
    first = await rig.occupy()
    crowd = await rig.crowd(range(5), cost=16)
    rig.engine.gate.set()
    await asyncio.gather(first, *crowd)
    assert [batch.stop_reason for batch in rig.reports.batches] == ["drained", "budget", "drained"]
    assert rig.batcher.budget(KEY) == 32


async def test_an_item_too_large_for_memory_is_refused_alone(rig: Rig) -> None:
    rig.engine.fails = lambda payloads: OutOfMemory() if 5 in payloads else None
    first = await rig.occupy()
    crowd = await rig.crowd(range(8))
    rig.engine.gate.set()
    answers = await asyncio.gather(first, *crowd, return_exceptions=True)
    assert isinstance(answers[6], ProblemError)
    assert answers[6].code == "gpu-memory"
    assert sum(isinstance(answer, Exception) for answer in answers) == 1


async def test_a_device_fault_fails_the_batch_and_is_remembered(rig: Rig) -> None:
    rig.engine.fails = lambda payloads: DeviceFault("illegal access") if 3 in payloads else None
    first = await rig.occupy()
    crowd = await rig.crowd(range(4))
    rig.engine.gate.set()
    answers = await asyncio.gather(first, *crowd, return_exceptions=True)
    assert all(isinstance(answer, DeviceFault) for answer in answers[1:])
    assert rig.executor.fault is answers[1]
    assert len(rig.engine.batches) == 2, "a broken device is not tried again"
    assert rig.batcher.budget(KEY) == 64, "smaller batches would not help"


async def test_a_cancelled_caller_leaves_the_queue(rig: Rig) -> None:
    first = await rig.occupy()
    crowd = await rig.crowd(range(3))
    crowd[1].cancel()
    await asyncio.gather(crowd[1], return_exceptions=True)
    assert rig.batcher.queued_requests == 2
    first.cancel()  # running: its result is dropped, the engine goes on
    rig.engine.gate.set()
    answers = await asyncio.gather(crowd[0], crowd[2])
    assert [result for result, _ in answers] == [0, 4]
    assert rig.engine.batches == [[0], [0, 2]]


async def test_a_late_item_is_answered_while_the_engine_is_busy(rig: Rig) -> None:
    assert rig.executor.busy_seconds == 0
    first = await rig.occupy()
    with pytest.raises(ProblemError) as late:
        await rig.executor.submit(KEY, 1, 1, 0.02)
    assert late.value.code == "deadline-exceeded"
    assert rig.executor.busy_seconds > 0
    rig.engine.gate.set()
    assert (await first)[0] == 0
    assert rig.engine.batches == [[0]]


async def test_a_full_queue_refuses_at_once(rig: Rig) -> None:
    first = await rig.occupy()
    crowd = await rig.crowd([1], cost=1000)
    with pytest.raises(ProblemError) as refused:
        await rig.executor.submit(KEY, 1, 2, 60)
    assert refused.value.code == "overloaded"
    rig.engine.gate.set()
    assert [answer[0] for answer in await asyncio.gather(first, *crowd)] == [0, 2]


async def test_messages_of_one_moment_have_fates_of_their_own(rig: Rig) -> None:
    first = await rig.occupy()
    answers: dict[tuple[str, int], Any] = {}

    def message(name: str, cost: int, payloads: Sequence[Any], seconds: float) -> Message:
        def done(index: int, outcome: Any, timing: Any) -> None:
            answers[name, index] = getattr(outcome, "code", outcome)

        return Message(KEY, cost, payloads, seconds, done)

    admitted = rig.executor.start(
        [
            message("two", 1, [1, 2], 60),
            message("late", 1, [3], 0.02),
            message("large", 2000, [4], 60),
            message("cancelled", 1, [5], 60),
        ]
    )
    assert [getattr(outcome, "code", "admitted") for outcome in admitted] == ["admitted"] * 2 + [
        "overloaded",
        "admitted",
    ]
    [cancelled] = admitted[3] if isinstance(admitted[3], range) else []
    assert rig.executor.cancel(cancelled)
    await until(lambda: ("late", 0) in answers)
    rig.engine.gate.set()
    await first
    await until(lambda: len(answers) == 3)
    assert answers == {("two", 0): 2, ("two", 1): 4, ("late", 0): "deadline-exceeded"}
    assert rig.engine.batches == [[0], [1, 2]]


async def test_an_engine_that_loses_answers_is_an_error_for_each(rig: Rig) -> None:
    rig.engine.gate.set()
    executor = BatchExecutor(lambda key, payloads: list, Batcher(8, 8, 8), rig.reports)
    with pytest.raises(RuntimeError, match="answered 0 of 1"):
        await executor.submit(KEY, 1, 0, 60)
    executor.close()


async def test_closing_refuses_what_waits(rig: Rig) -> None:
    first = await rig.occupy()
    crowd = await rig.crowd(range(2))
    threading.Timer(0.05, rig.engine.gate.set).start()
    rig.executor.close()
    answers = await asyncio.gather(first, *crowd, return_exceptions=True)
    assert {answer.code for answer in answers} == {"draining"}
    with pytest.raises(ProblemError) as late:
        await rig.executor.submit(KEY, 1, 0, 60)
    assert late.value.code == "draining"


async def submit_together(executor: BatchExecutor, payloads: Sequence[Any]) -> list[Any]:
    """Submit items of one moment: the engine's thread sees all of them or none."""
    loop = asyncio.get_running_loop()
    futures: list[asyncio.Future[Any]] = [loop.create_future() for _ in payloads]

    def message(payload: Any, future: asyncio.Future[Any]) -> Message:
        return Message(KEY, 1, [payload], SECONDS, lambda index, outcome, timing: future.set_result(outcome))

    executor.start([message(*pair) for pair in zip(payloads, futures, strict=True)])
    return await asyncio.gather(*futures)


async def test_the_next_batch_starts_before_the_results_of_the_last_are_fetched(reports: Reports) -> None:
    events: list[tuple[str, Any]] = []
    gate = threading.Event()

    def launch(key: TokenizerKey, payloads: Sequence[Any]) -> Callable[[], Sequence[Any]]:
        events.append(("launched", payloads[0]))

        def fetch() -> Sequence[Any]:
            gate.wait()
            events.append(("fetched", payloads[0]))
            return payloads

        return fetch

    executor = BatchExecutor(launch, Batcher(10, 1, 10**6), reports)
    gate.set()
    await executor.submit(KEY, 10**5, 0, 60)  # the device is known to be fast
    gate.clear()
    answers = asyncio.create_task(submit_together(executor, range(1, 5)))
    await until(lambda: len(events) == 4)
    assert events[2:] == [("launched", 1), ("launched", 2)], "one batch waits behind the one that runs, and no more"
    gate.set()
    assert await answers == [1, 2, 3, 4]
    assert events[4:6] == [("fetched", 1), ("launched", 3)]
    executor.close()


async def test_a_batch_that_fits_beside_no_other_runs_alone(reports: Reports) -> None:
    running: list[Any] = []
    alone: list[Any] = []

    def launch(key: TokenizerKey, payloads: Sequence[Any]) -> Callable[[], Sequence[Any]]:
        if running:
            raise OutOfMemory
        running.extend(payloads)
        alone.append(list(payloads))

        def fetch() -> Sequence[Any]:
            running.clear()
            return payloads

        return fetch

    executor = BatchExecutor(launch, Batcher(10, 1, 10**6), reports)
    await executor.submit(KEY, 10**5, 0, 60)
    assert await submit_together(executor, range(1, 5)) == [1, 2, 3, 4]
    assert alone == [[number] for number in range(5)]
    assert not reports.splits
    executor.close()


async def test_halves_have_the_memory_of_the_batch_behind_them() -> None:
    """Two batches are launched; the first does not fit when it is fetched, and its halves not beside the second."""
    gate, held = threading.Event(), set[int]()

    def launch(key: TokenizerKey, payloads: Sequence[Any]) -> Callable[[], Sequence[Any]]:
        if len(payloads) == 1 and held - {payloads[0]}:
            raise OutOfMemory
        held.update(payloads)

        def fetch() -> Sequence[Any]:
            gate.wait()
            held.difference_update(payloads)
            if list(payloads) == [1, 2]:
                raise OutOfMemory
            return payloads

        return fetch

    executor = BatchExecutor(launch, Batcher(10, 2, 10**6), Reports())
    first = asyncio.create_task(executor.submit(KEY, 10**5, 0, 60))
    await until(lambda: 0 in held)
    crowd = asyncio.create_task(submit_together(executor, range(1, 5)))
    await asyncio.sleep(0)
    gate.set()
    assert (await first)[0] == 0
    assert await crowd == [1, 2, 3, 4]
    executor.close()


async def test_a_batch_is_counted_before_its_answers(rig: Rig) -> None:
    rig.engine.gate.set()
    counted: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    rig.executor.start([Message(KEY, 1, [3], 60, lambda *_: counted.set_result(len(rig.reports.batches)))])
    assert await counted == 1
