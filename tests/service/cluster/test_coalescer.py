"""Items that arrive while calls are on their way travel together, and each gets its own answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from waiting import SECONDS

from service.cluster.coalescer import Coalescer


class Wire:
    """Calls that wait until they are let go."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.gates: list[asyncio.Event] = []
        self.cancelled: list[int] = []
        self.error: Exception | None = None

    async def send(self, items: Sequence[int]) -> list[int]:
        number = len(self.calls)
        self.calls.append(list(items))
        self.gates.append(asyncio.Event())
        try:
            await self.gates[number].wait()
        except asyncio.CancelledError:
            self.cancelled.append(number)
            raise
        if self.error is not None:
            raise self.error
        return [10 * item for item in items]


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def start(coalescer: Coalescer[int], *items: int, kind: str = "a") -> list[asyncio.Task[int]]:
    tasks = [asyncio.create_task(coalescer.call(kind, item, 1)) for item in items]
    await settle()
    return tasks


async def test_what_arrives_meanwhile_travels_together() -> None:
    wire = Wire()
    coalescer = Coalescer(wire.send, outstanding=1, items=3, size=100)
    tasks = await start(coalescer, *range(6))
    assert wire.calls == [[0]]
    wire.gates[0].set()
    await settle()
    assert wire.calls == [[0], [1, 2, 3]]
    wire.gates[1].set()
    await settle()
    wire.gates[2].set()
    assert await asyncio.gather(*tasks) == [0, 10, 20, 30, 40, 50]
    assert wire.calls == [[0], [1, 2, 3], [4, 5]]


async def test_kinds_wait_for_their_own_calls_only() -> None:
    wire = Wire()
    coalescer = Coalescer(wire.send, outstanding=2, items=3, size=100)
    await start(coalescer, 1, 2, 3)
    await start(coalescer, 4, kind="b")
    assert wire.calls == [[1], [2], [4]]


async def test_bytes_bound_a_call_but_for_one_item() -> None:
    wire = Wire()
    coalescer = Coalescer(wire.send, outstanding=1, items=9, size=10)
    for item, size in enumerate((1, 6, 5, 99, 1)):
        asyncio.create_task(coalescer.call("a", item, size))  # noqa: RUF006  the loop of the test ends them
    for number in range(4):
        await settle()
        wire.gates[number].set()
    await settle()
    assert wire.calls == [[0], [1], [2], [3], [4]]


async def test_an_error_reaches_all_of_its_call_and_no_other() -> None:
    wire = Wire()
    coalescer = Coalescer(wire.send, outstanding=1, items=9, size=100)
    first, *others = await start(coalescer, 1, 2, 3)
    wire.error = ConnectionError("lost")
    wire.gates[0].set()
    with pytest.raises(ConnectionError):
        await first
    await settle()
    wire.error = None
    wire.gates[1].set()
    assert await asyncio.gather(*others) == [20, 30]


async def test_a_caller_that_leaves_takes_its_item_or_the_whole_call_along() -> None:
    wire = Wire()
    coalescer = Coalescer(wire.send, outstanding=1, items=9, size=100)
    first, second, third, fourth = await start(coalescer, 1, 2, 3, 4)
    second.cancel()
    await settle()
    wire.gates[0].set()
    await settle()
    assert wire.calls == [[1], [3, 4]]
    third.cancel()
    await settle()
    assert not wire.cancelled, "the fourth still waits"
    fourth.cancel()
    await settle()
    assert wire.cancelled == [1]
    assert await first == 10
    [fifth] = await start(coalescer, 5)
    wire.gates[2].set()
    assert await fifth == 50


@pytest.mark.parametrize("answers", [[10], [10, 20, 30, 40]])
async def test_answers_that_are_too_few_or_too_many_fail_their_call(answers: list[int]) -> None:
    gate = asyncio.Event()

    async def send(items: Sequence[int]) -> list[int]:
        await gate.wait()
        return [1] if list(items) == [0] else answers

    coalescer = Coalescer(send, outstanding=1, items=9, size=100)
    first, *others = await start(coalescer, 0, 1, 2, 3)
    gate.set()
    assert await first == 1
    failed = await asyncio.wait_for(asyncio.gather(*others, return_exceptions=True), SECONDS)
    assert {str(error) for error in failed} == {f"A call of 3 items has {len(answers)} answers."}
