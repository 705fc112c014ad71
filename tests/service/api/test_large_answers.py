"""The layer that sends large answers, between a scripted application and a scripted server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api import large_answers
from service.api.large_answers import LargeAnswers
from service.api.send import SLICE_BYTES

SIZES = st.lists(st.sampled_from([0, 1, SLICE_BYTES, SLICE_BYTES + 1, 3 * SLICE_BYTES]), min_size=1, max_size=3)
HTTP: Any = {"type": "http"}


class Answering:
    """An application that answers with these parts.

    Attributes:
        ended: whether it has returned, and holds nothing any more.
    """

    def __init__(self, *parts: bytes) -> None:
        self._parts, self.ended = parts, False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for number, part in enumerate(self._parts):
            await send({"type": "http.response.body", "body": part, "more_body": number < len(self._parts) - 1})
        self.ended = True


class Reader:
    """A server whose client takes a message for each `take`.

    Attributes:
        bodies: that it took.
        begun: set once the first one is there to be taken.
    """

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.begun = asyncio.Event()
        self._taken = asyncio.Semaphore(0)

    def take(self) -> None:
        self._taken.release()

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.body":
            self.begun.set()
            await self._taken.acquire()
            self.bodies.append(message)


async def nothing() -> Any:
    raise AssertionError


@given(SIZES)
def test_an_answer_arrives_as_it_was(sizes: list[int]) -> None:
    parts, taken = [bytes([number]) * size for number, size in enumerate(sizes)], list[dict[str, Any]]()

    async def send(message: Any) -> None:
        taken.append(message)

    asyncio.run(LargeAnswers(Answering(*parts))(HTTP, nothing, send))
    bodies = [message for message in taken if message["type"] == "http.response.body"]
    assert b"".join(message["body"] for message in bodies) == b"".join(parts)
    assert [message["more_body"] for message in bodies] == [True] * (len(bodies) - 1) + [False]
    assert all(len(message["body"]) <= SLICE_BYTES for message in bodies[len(parts) - 1 :])


@pytest.mark.parametrize("parts", [[], [b"event"]])
async def test_nothing_is_held_while_a_large_answer_or_the_rest_of_one_leaves(parts: list[bytes]) -> None:
    app, reader = Answering(*parts, bytes(2 * SLICE_BYTES)), Reader()
    sending = asyncio.create_task(LargeAnswers(app)(HTTP, nothing, reader.send))
    for _ in parts:
        reader.take()
    await reader.begun.wait()
    while not app.ended:
        await asyncio.sleep(0)
    assert len(reader.bodies) == len(parts)
    reader.take()
    reader.take()
    await sending
    assert len(reader.bodies) == len(parts) + 2


async def test_a_reader_that_takes_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_answers, "STALL_SECONDS", 0.01)
    reader = Reader()
    await LargeAnswers(Answering(bytes(2 * SLICE_BYTES)))(HTTP, nothing, reader.send)
    assert reader.bodies == []


async def test_of_too_many_bytes_the_slowest_readers_are_given_up() -> None:
    now = 0.0
    layer = LargeAnswers(Answering(bytes(4 * SLICE_BYTES)), lambda: now, max_bytes=8 * SLICE_BYTES)
    readers = [Reader() for _ in range(4)]

    async def begin(reader: Reader) -> asyncio.Task[None]:
        sending = asyncio.create_task(layer(HTTP, nothing, reader.send))
        await reader.begun.wait()
        return sending

    tasks = [await begin(reader) for reader in readers[:2]]
    readers[0].take()
    while not readers[0].bodies:
        await asyncio.sleep(0)
    tasks.append(await begin(readers[2]))  # nobody is slow yet
    now = 2.0
    tasks.append(await begin(readers[3]))
    await asyncio.gather(tasks[1], tasks[2])
    for reader in (readers[0], readers[3]):
        for _ in range(4):
            reader.take()
    await asyncio.gather(*tasks)
    assert [len(reader.bodies) for reader in readers] == [4, 0, 0, 4]
