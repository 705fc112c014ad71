"""The tokenizer's end of the link: requests out of the arenas of ingress processes, answers back."""

from __future__ import annotations

import asyncio
import logging
import mmap
import os
import secrets
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, cast

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
    LATENTS,
    LEAVING,
    MAGIC,
    OPS,
    PIXELS,
    PROBLEM,
    TOKENS,
    WANTS,
    Answer,
    BadMessageError,
    Request,
    RequestReader,
    check_request,
    pack_cards,
    pack_problem,
)
from service.types import ModelCard, Timing, TokenizerKey

Done = Callable[[int, Any, Timing | None], None]  # of the item at an index, a result with its timing, or an exception

GREETING_SECONDS = 5.0
BACKLOG = 64
POLL_SECONDS = 0.01
ACCEPT_AGAIN_SECONDS = 1.0
CONTENTS: tuple[Literal["pixels", "tokens", "latents"], ...] = ("pixels", "tokens", "latents")
DTYPES = ("|u1", "<i4", "<f4")  # of them

log = logging.getLogger("ray.serve")


class Worker(Protocol):
    """A queue of calls that `done` answers; `in_process.LocalBackend` is one."""

    def start(
        self, key: TokenizerKey, payloads: Sequence[NDArray[Any]], seconds: float, done: Done, flow: Flow
    ) -> Sequence[int]:
        """Queue the items of a call, all of them or none; return their numbers. `done` is called afterwards."""

    def cancel(self, number: int) -> bool:
        """Take a call out of the queue; False if it runs or is over."""


class LinkServer:
    """Listens in a folder, and lets a worker do what comes.

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
    """The items of one request that a worker has.

    Attributes:
        numbers: at the worker, of the items that it has.
        cancelled: whether nobody waits for the answer.
    """

    def __init__(self, request: Request, card: ModelCard) -> None:
        self.request, self.card = request, card
        self.numbers: dict[int, int] = {}
        self.cancelled = False
        self._answers: dict[int, Answer] = {}

    def answer_id(self, index: int) -> int:
        """Return the id of the answer to an item: its index, among many."""
        return self.request.id if self.request.items == 1 else index

    def finish(self, index: int, answer: Answer) -> Answer | None:
        """Keep the answer to an item; return that to the call once all are there."""
        self.numbers.pop(index, None)
        self._answers[index] = answer
        if len(self._answers) < self.request.items:
            return None
        if self.cancelled:
            return Answer(DROPPED, self.request.id)
        if any(answer.kind == ELSEWHERE for answer in self._answers.values()):
            return Answer(ELSEWHERE, self.request.id)
        if self.request.items == 1:
            return answer
        packed = (self._answers[number].pack() for number in range(self.request.items))
        return Answer(BATCH, self.request.id, body=b"".join(packed))


class _Link(asyncio.Protocol):
    """One ingress process."""

    def __init__(self, server: LinkServer, memory: mmap.mmap) -> None:
        self.calls: dict[int, _Call] = {}
        self._server, self._memory = server, memory
        self._reader = RequestReader()
        self._out: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._server.links.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._server.links.discard(self)
        for call in list(self.calls):
            self._cancel(call)

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

    def _take(self, request: Request) -> None:
        if request.op == CANCEL:
            self._cancel(request.id)
            return
        if request.id in self.calls:
            raise BadMessageError(f"The call {request.id} exists already.")
        card = check_request(request, len(self._memory), self._server.cards)
        arrays = [self._array(request, card, index) for index in range(request.items)]
        op, content = OPS[request.op], CONTENTS[request.content]
        want = WANTS[request.want] if op == "encode" else "both"
        key = TokenizerKey(card.id, op, content, request.size, want)
        try:
            flow = Flow.unpack(request.flow)
        except ValueError as error:
            raise BadMessageError(str(error)) from None
        call = self.calls[request.id] = _Call(request, card)
        self._start(call, arrays, key, flow)

    def _start(self, call: _Call, arrays: Sequence[NDArray[Any]], key: TokenizerKey, flow: Flow) -> None:
        def done(index: int, outcome: Any, timing: Timing | None) -> None:
            try:
                answer = self._outcome(call, index, outcome, timing)
            except Exception as error:  # or the caller would wait for its deadline
                answer = self._outcome(call, index, error, None)
            self._finish(call, index, answer)

        try:
            numbers = self._server.worker.start(key, arrays, call.request.seconds, done, flow)
        except Exception as error:  # the other calls of this process go on
            for index in range(len(arrays)):
                done(index, error, None)
        else:
            call.numbers.update(enumerate(numbers))

    def _finish(self, call: _Call, index: int, item: Answer) -> None:
        if (answer := call.finish(index, item)) is not None:
            del self.calls[call.request.id]
            self.answer(answer)

    def _cancel(self, request_id: int) -> None:
        """Take a call out of the queue. Items that run end first: nobody may read their arrays any more."""
        if (call := self.calls.get(request_id)) is None:
            return
        call.cancelled = True
        for index, number in list(call.numbers.items()):
            if self._server.worker.cancel(number):
                self._finish(call, index, Answer(DROPPED, request_id))

    def _array(self, request: Request, card: ModelCard, index: int) -> NDArray[Any]:
        shape = request.shape if request.shape[3] else request.shape[:3]
        offset = request.offset + index * (request.length // request.items)
        array = array_at(self._memory, offset, DTYPES[request.content], shape)
        if request.content == TOKENS:
            array = array.copy()  # they cannot change once they are checked
            if array.min() < 0 or array.max() >= (card.codebook_size or 0):
                raise BadMessageError(f"A token is outside the codebook of {card.codebook_size}.")
        array.flags.writeable = False
        return array

    def _outcome(self, call: _Call, index: int, outcome: Any, timing: Timing | None) -> Answer:
        number = call.answer_id(index)
        if isinstance(outcome, self._server.broken) or getattr(outcome, "code", None) == "draining":
            return Answer(ELSEWHERE, number)
        if isinstance(outcome, ProblemError):
            return Answer(PROBLEM, number, body=pack_problem(outcome))
        if isinstance(outcome, BaseException) or timing is None:
            log.error("a request failed, trace %s", call.request.trace[:16].hex(), exc_info=outcome)
            problem = ProblemError("internal", "The tokenizer failed on this request.")
            return Answer(PROBLEM, number, body=pack_problem(problem))
        return self._pack(call, index, outcome, timing)

    def _pack(self, call: _Call, index: int, outcome: Any, timing: Timing) -> Answer:
        request, card = call.request, call.card
        tokens, large = outcome if OPS[request.op] == "encode" else (None, outcome)
        size = request.answer_length // request.items
        if large is not None and size not in (0, large.nbytes):
            raise ValueError(f"A result has {large.nbytes} bytes, and its place {size}.")
        if large is not None and size and self._transport is not None:
            dtype = DTYPES[LATENTS] if OPS[request.op] == "encode" else DTYPES[PIXELS]
            array_at(self._memory, request.answer_offset + index * size, dtype, large.shape)[...] = large
        body, token_bytes = b"", 0
        if tokens is not None and WANTS[request.want] != "latents":
            token_bytes = 2 if card.codebook_size is not None and card.codebook_size <= 2**16 else 4
            body = tokens.astype(f"<u{token_bytes}", copy=False).tobytes()
        times = (timing.queue_ms, timing.compute_ms, timing.batch_size)
        return Answer(DONE, call.answer_id(index), token_bytes, *times, body)


def _receive_arena(connection: socket.socket) -> mmap.mmap:
    connection.settimeout(GREETING_SECONDS)
    if not is_own_user(connection):
        raise ValueError("Another user's process connected.")
    message, descriptors, _, _ = socket.recv_fds(connection, GREETING.size, 1)
    if len(message) != GREETING.size or not descriptors:
        raise ValueError("The greeting is not one.")
    magic, size = GREETING.unpack(message)
    if magic != MAGIC:
        os.close(descriptors[0])
        raise ValueError(f"The other end speaks {magic.hex()}, not {MAGIC.hex()}: one is of another version.")
    memory = attach(descriptors[0], size)
    connection.setblocking(False)
    return memory
