"""The tokenizer's end of the link in any order of events: a call has one answer, and none while it is read."""

from __future__ import annotations

import asyncio
import mmap
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from service.errors import ProblemError
from service.link.messages import (
    BATCH,
    DONE,
    DROPPED,
    ELSEWHERE,
    PIXELS,
    PROBLEM,
    Answer,
    AnswerReader,
    Request,
    cancellation,
    parse_many,
)
from service.link.server import LinkServer, _Link
from service.types import Message, ModelCard, Timing

CARD = ModelCard("vq", "a" * 64, "vq", 512, 3, 8, 4, "causal", True, 1, "cpu", "float32")
SIZE = (1, 8, 8)
IMAGE_BYTES = 192
REFUSED_SECONDS = 1.0  # of messages that the queue refuses
TOKENS = np.zeros((1, 1, 1), np.uint16)
OUTCOMES = {"good": (TOKENS, None), "poison": ValueError("poison"), "lost": ConnectionError("lost")}


class Queue:
    """A worker whose items wait, run and end when a test says so."""

    def __init__(self) -> None:
        self.waiting: dict[int, tuple[Message, int]] = {}
        self.running: dict[int, tuple[Message, int]] = {}
        self.made = 0

    def start(self, messages: Sequence[Message]) -> list[Sequence[int] | Exception]:
        return [self._admit(message) for message in messages]

    def _admit(self, message: Message) -> Sequence[int] | Exception:
        if message.seconds == REFUSED_SECONDS:
            return ProblemError("overloaded", "The queue is full.")
        numbers = range(self.made, self.made + len(message.payloads))
        self.made = numbers.stop
        self.waiting.update((number, (message, index)) for index, number in enumerate(numbers))
        return numbers

    def cancel(self, number: int) -> bool:
        return self.waiting.pop(number, None) is not None

    def begin(self, place: int) -> None:
        number = list(self.waiting)[place % len(self.waiting)]
        self.running[number] = self.waiting.pop(number)

    def end(self, place: int, outcome: Any) -> None:
        message, index = self.running.pop(list(self.running)[place % len(self.running)])
        message.done(index, outcome, Timing(1.0, 2.0, 3))

    def held(self) -> set[int]:
        """Return the first byte of the payloads of what waits and runs: the id of the call."""
        everything = [*self.waiting.values(), *self.running.values()]
        return {int(message.payloads[index].flat[0]) for message, index in everything}


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.reader = AnswerReader()
        self.answers: dict[int, Answer] = {}

    def write(self, data: Any) -> None:
        for answer in self.reader.feed(bytes(data)):
            assert answer.id not in self.answers, "a call has two answers"
            self.answers[answer.id] = answer


class ServerMachine(RuleBasedStateMachine):
    """One link whose messages come in any crowds, and a queue that works when it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.queue, self.transport = Queue(), Transport()
        self.memory = mmap.mmap(-1, 256 * IMAGE_BYTES)
        self.link = self.loop.run_until_complete(self.connect())
        self.sent: dict[int, Request] = {}
        self.cancelled: set[int] = set()
        self.gone = False

    async def connect(self) -> _Link:
        link = _Link(LinkServer(Path(self.folder.name), self.queue, [CARD]), self.memory)
        link.connection_made(self.transport)
        return link

    @precondition(lambda self: not self.gone and len(self.sent) < 60)
    @rule(
        crowd=st.lists(st.tuples(st.integers(1, 3), st.sampled_from([60.0, 60.0, REFUSED_SECONDS])), max_size=3),
        cancelled=st.lists(st.integers(0, 100), max_size=2),
    )
    def arrive(self, crowd: list[tuple[int, float]], cancelled: list[int]) -> None:
        data = b""
        for items, seconds in crowd:
            number = len(self.sent) + 1
            offset = 3 * number * IMAGE_BYTES
            self.memory[offset : offset + items * IMAGE_BYTES] = bytes([number]) * items * IMAGE_BYTES
            place = (offset, items * IMAGE_BYTES, 0, 0)
            self.sent[number] = Request(number, 0, 0, PIXELS, 0, (*SIZE, 3), SIZE, *place, seconds, items=items)
            data += self.sent[number].pack()
        for place_ in cancelled if self.sent else ():
            number = 1 + place_ % len(self.sent)
            self.cancelled.add(number)
            data += cancellation(number)

        async def receive() -> None:
            self.link.data_received(data)

        self.loop.run_until_complete(receive())

    @rule()
    def turn(self) -> None:
        for _ in range(3):
            self.loop.run_until_complete(asyncio.sleep(0))

    @precondition(lambda self: self.queue.waiting)
    @rule(place=st.integers(0, 100))
    def begin(self, place: int) -> None:
        self.queue.begin(place)

    @precondition(lambda self: self.queue.running)
    @rule(place=st.integers(0, 100), outcome=st.sampled_from(list(OUTCOMES)))
    def end(self, place: int, outcome: str) -> None:
        async def answer() -> None:
            self.queue.end(place, OUTCOMES[outcome])

        self.loop.run_until_complete(answer())

    @precondition(lambda self: not self.gone and len(self.sent) >= 8)
    @rule()
    def leave(self) -> None:
        """End the ingress process: nobody waits for its calls any more."""
        self.link.connection_lost(None)
        self.gone = True
        assert not self.queue.waiting

    @invariant()
    def an_answered_call_is_read_no_more(self) -> None:
        assert not self.queue.held() & set(self.transport.answers)
        assert not self.queue.held() - set(self.link.calls), "nobody waits for what is worked on"

    def teardown(self) -> None:
        self.turn()
        while self.queue.waiting:
            self.queue.begin(0)
        while self.queue.running:
            self.end(0, "good")
        self.turn()
        assert not self.link.calls
        assert self.gone or set(self.transport.answers) == set(self.sent)
        for number, answer in self.transport.answers.items():
            request = self.sent[number]
            if answer.kind == DROPPED:
                assert number in self.cancelled
            elif request.seconds == REFUSED_SECONDS:
                answers = [answer] if request.items == 1 else parse_many(answer.body, request.items)
                assert {answer.kind for answer in answers} == {PROBLEM}
            else:
                assert answer.kind in ({DONE, PROBLEM, ELSEWHERE} if request.items == 1 else {BATCH, ELSEWHERE})

        async def close() -> None:
            self.link.connection_lost(None)
            self.link.server.close()

        self.loop.run_until_complete(close())
        self.loop.close()
        self.folder.cleanup()


TestServer = ServerMachine.TestCase
TestServer.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
