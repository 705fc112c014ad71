"""The tokenizer's end of the link: requests out of the arenas of ingress processes, answers back."""

from __future__ import annotations

import asyncio
import logging
import mmap
import os
import secrets
import socket
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, cast

from numpy.typing import NDArray

from service.errors import ProblemError
from service.flow import Flow
from service.link.directory import SOCKET_NAME_BYTES, SUFFIX, is_own_user
from service.link.memory import array_at, attach
from service.link.messages import (
    BATCH,
    CANCEL,
    DONE,
    DROPPED,
    ELSEWHERE,
    GREETING,
    HELLO,
    LEAVING,
    MAGIC,
    PROBLEM,
    Answer,
    BadMessageError,
    Form,
    Forms,
    Request,
    RequestReader,
    pack_cards,
    pack_problem,
)
from service.types import Message, ModelCard, Timing

GREETING_SECONDS = 5.0
BACKLOG = 64
POLL_SECONDS = 0.01
ACCEPT_AGAIN_SECONDS = 1.0
REMEMBERED_FLOWS = 1024  # callers come and go

log = logging.getLogger("ray.serve")


class Worker(Protocol):
    """A queue of work; `in_process.LocalBackend` is one."""

    def start(self, messages: Sequence[Message]) -> Sequence[Sequence[int] | Exception]:
        """Queue the items of messages; return the numbers of each one's items, or why they were refused."""

    def cancel(self, number: int) -> bool:
        """Take an item out of the queue; False if it runs or is over."""


class LinkServer:
    """A server that listens in a folder, and lets a worker do what comes.

    Args:
        directory: the path of a `SocketDirectory`.
        worker: does the calls; an exception that is not a `ProblemError` counts as its own failure.
        cards: the bundles that it serves.
        broken: the exception of a device that is lost, after which another tokenizer must do the call.
    """

    def __init__(
        self, directory: Path, worker: Worker, cards: Sequence[ModelCard], broken: type[Exception] = ConnectionError
    ) -> None:
        self.worker, self.cards, self.broken = worker, cards, broken
        self.links: set[_Link] = set()
        self.forms = Forms(cards)
        self.flow = lru_cache(REMEMBERED_FLOWS)(Flow.unpack)
        self._arrived: list[tuple[_Call, Message]] = []  # in this turn of the loop
        self._path = directory / f"{secrets.token_hex(SOCKET_NAME_BYTES)}{SUFFIX}"
        self._listener = socket.socket(socket.AF_UNIX)
        self._greetings: set[asyncio.Task[None]] = set()
        self._leaving = False

    async def start(self) -> None:
        """Listen."""
        hidden = self._path.with_suffix("")
        self._listener.bind(os.fspath(hidden))
        self._listener.listen(BACKLOG)
        self._listener.setblocking(False)
        hidden.rename(self._path)  # a socket that can be found accepts, so one that does not accept is dead
        self._listen()

    async def leave(self) -> None:
        """Take no new calls, and return when those that are there have been answered."""
        self._leaving = True
        self._stop_listening()
        for link in self.links:
            link.answer(Answer(LEAVING))
        while any(link.calls for link in self.links):
            await asyncio.sleep(POLL_SECONDS)
        await asyncio.sleep(0)  # the last answers are written at the end of this turn

    def close(self) -> None:
        """Stop listening and close all links; what they wait for is lost."""
        self._stop_listening()
        for link in list(self.links):
            link.abort()

    def take(self, call: _Call, message: Message) -> None:
        """Have a call done, with all others of this turn of the loop, whoever sent them: the queue is locked once."""
        if not self._arrived:
            asyncio.get_running_loop().call_soon(self._start)
        self._arrived.append((call, message))

    def _start(self) -> None:
        arrived = [(call, message) for call, message in self._arrived if not call.cancelled]
        self._arrived = []
        if not arrived:
            return
        outcomes: Sequence[Sequence[int] | Exception]
        try:
            outcomes = self.worker.start([message for _, message in arrived])
        except Exception as error:  # or the callers would wait for their deadlines
            outcomes = [error] * len(arrived)
        for (call, _), outcome in zip(arrived, outcomes, strict=True):
            if isinstance(outcome, Exception):
                call.refuse(outcome)
            else:
                call.numbers = outcome

    def _stop_listening(self) -> None:
        self._path.unlink(missing_ok=True)
        if self._listener.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._listener.fileno())
            self._listener.close()

    def _listen(self) -> None:
        if self._listener.fileno() >= 0:
            asyncio.get_running_loop().add_reader(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:  # no descriptor is free: the connection waits, or this would be called without end
            log.warning("an ingress replica could not be accepted: %s", error)
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._listener.fileno())
            loop.call_later(ACCEPT_AGAIN_SECONDS, self._listen)
            return
        task = asyncio.ensure_future(self._greet(connection))
        self._greetings.add(task)
        task.add_done_callback(self._greetings.discard)

    async def _greet(self, connection: socket.socket) -> None:
        try:
            memory = await asyncio.to_thread(_receive_arena, connection)
        except (OSError, ValueError) as error:
            log.warning("an ingress replica could not be linked: %s", error)
            connection.close()
            return
        link = _Link(self, memory)
        await asyncio.get_running_loop().connect_accepted_socket(lambda: link, connection)
        link.answer(Answer(HELLO, body=pack_cards(self.cards)))
        if self._leaving:
            link.answer(Answer(LEAVING))


class _Call:
    """The items of one request, from its arrival to its answer.

    Attributes:
        numbers: of the items at the worker; None before it has them.
        cancelled: whether nobody waits for the answer.
    """

    __slots__ = ("_answers", "_form", "_left", "_link", "_request", "cancelled", "numbers")

    def __init__(self, link: _Link, request: Request, form: Form) -> None:
        self.numbers: Sequence[int] | None = None
        self.cancelled = False
        self._link, self._request, self._form = link, request, form
        self._answers: list[Answer | None] = [None] * request.items
        self._left = request.items

    def cancel(self) -> None:
        """Take the items out of the queue. Those that run end first: nobody may read their arrays any more."""
        self.cancelled = True
        if self.numbers is None:
            self._link.end(self._request.id, Answer(DROPPED, self._request.id))
            return
        for index, number in enumerate(self.numbers):
            if self._link.server.worker.cancel(number):
                self._finish(index, Answer(DROPPED))

    def refuse(self, error: Exception) -> None:
        """Answer all items alike."""
        for index in range(self._request.items):
            self.done(index, error, None)

    def done(self, index: int, outcome: Any, timing: Timing | None) -> None:
        """Answer an item; arguments as of `types.Done`."""
        try:
            answer = self._answer(index, outcome, timing)
        except Exception as error:  # or the caller would wait for its deadline
            answer = self._answer(index, error, None)
        self._finish(index, answer)

    def _finish(self, index: int, answer: Answer) -> None:
        self._answers[index] = answer
        self._left -= 1
        if not self._left:
            self._link.end(self._request.id, self._whole([answer for answer in self._answers if answer is not None]))

    def _whole(self, answers: Sequence[Answer]) -> Answer:
        """Return the answer to the call."""
        if self.cancelled:
            return Answer(DROPPED, self._request.id)
        if len(answers) == 1:
            return answers[0]
        if any(answer.kind == ELSEWHERE for answer in answers):
            return Answer(ELSEWHERE, self._request.id)
        return Answer(BATCH, self._request.id, body=b"".join(answer.pack() for answer in answers))

    def _answer(self, index: int, outcome: Any, timing: Timing | None) -> Answer:
        request, form = self._request, self._form
        number = request.id if request.items == 1 else index  # among many it is the index
        if timing is None or isinstance(outcome, BaseException):
            return self._failure(number, outcome)
        tokens, large = outcome if form.key.op == "encode" else (None, outcome)
        if large is not None and form.answer_bytes:
            if large.nbytes != form.answer_bytes:
                raise ValueError(f"A result has {large.nbytes} bytes, and its place {form.answer_bytes}.")
            self._link.write(request.answer_offset + index * form.answer_bytes, large)
        if tokens is None or form.key.want == "latents":
            return Answer(DONE, number, 0, *timing)
        body = tokens.astype(form.token_dtype, copy=False).tobytes()
        return Answer(DONE, number, form.token_dtype.itemsize, *timing, body)

    def _failure(self, number: int, outcome: Any) -> Answer:
        if isinstance(outcome, self._link.server.broken) or getattr(outcome, "code", None) == "draining":
            return Answer(ELSEWHERE, number)
        if isinstance(outcome, ProblemError):
            return Answer(PROBLEM, number, body=pack_problem(outcome))
        log.error("a request failed, trace %s", self._request.trace[:16].hex(), exc_info=outcome)
        problem = ProblemError("internal", "The tokenizer failed on this request.")
        return Answer(PROBLEM, number, body=pack_problem(problem))


class _Link(asyncio.Protocol):
    """One ingress process."""

    def __init__(self, server: LinkServer, memory: mmap.mmap) -> None:
        self.calls: dict[int, _Call] = {}
        self.server, self._memory = server, memory
        self._inputs = memoryview(memory).toreadonly()
        self._reader = RequestReader()
        self._out: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.server.links.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self.server.links.discard(self)
        for call in list(self.calls.values()):
            call.cancel()

    def data_received(self, data: bytes) -> None:
        try:
            for request in self._reader.feed(data):
                self._take(request)
        except BadMessageError as error:
            log.error("an ingress replica sent nonsense and is cut off: %s", error)
            self.abort()

    def answer(self, answer: Answer) -> None:
        """Send an answer with all others of this turn of the loop."""
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(answer.pack())

    def abort(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.abort()

    def _flush(self) -> None:
        out, self._out = self._out, []
        if self._transport is not None:
            self._transport.write(b"".join(out))

    def end(self, request_id: int, answer: Answer) -> None:
        """Forget a call and send its answer."""
        del self.calls[request_id]
        self.answer(answer)

    def write(self, offset: int, array: NDArray[Any]) -> None:
        """Copy a result into the arena of a process that is there."""
        if self._transport is not None:
            array_at(self._memory, offset, array.dtype, array.shape)[...] = array

    def _take(self, request: Request) -> None:
        if request.op == CANCEL:
            if (call := self.calls.get(request.id)) is not None:
                call.cancel()
            return
        if request.id in self.calls:
            raise BadMessageError(f"The call {request.id} exists already.")
        form = self.server.forms.check(request, len(self._memory))
        try:
            flow = self.server.flow(request.flow)
        except ValueError as error:
            raise BadMessageError(str(error)) from None
        arrays = [self._array(form, request.offset + index * form.item_bytes) for index in range(request.items)]
        call = self.calls[request.id] = _Call(self, request, form)
        self.server.take(call, Message(form.key, form.cost, arrays, request.seconds, call.done, flow))

    def _array(self, form: Form, offset: int) -> NDArray[Any]:
        array = array_at(self._inputs, offset, form.dtype, form.shape)
        if form.key.kind == "tokens":
            array = array.copy()  # they cannot change once they are checked
            if array.min() < 0 or array.max() >= (form.card.codebook_size or 0):
                raise BadMessageError(f"A token is outside the codebook of {form.card.codebook_size}.")
            array.flags.writeable = False
        return array


def _receive_arena(connection: socket.socket) -> mmap.mmap:
    connection.settimeout(GREETING_SECONDS)
    if not is_own_user(connection):
        raise ValueError("Another user's process connected.")
    message, descriptors, _, _ = socket.recv_fds(connection, GREETING.size, 1)
    try:
        if len(message) != GREETING.size or not descriptors:
            raise ValueError("The greeting is not one.")
        magic, size = GREETING.unpack(message)
        if magic != MAGIC:
            raise ValueError(f"The other end speaks {magic.hex()}, not {MAGIC.hex()}: one is of another version.")
    except ValueError:
        for descriptor in descriptors:
            os.close(descriptor)
        raise
    memory = attach(descriptors[0], size)
    connection.setblocking(False)
    return memory
