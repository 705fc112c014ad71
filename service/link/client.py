"""The ingress' end of the link: calls of the tokenizer processes of this node."""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from service.errors import ProblemError
from service.failures import LoopFailures
from service.flow import current as current_flow
from service.link.directory import SUFFIX
from service.link.dispatch import Call, Dispatcher
from service.link.memory import Arena
from service.link.messages import (
    BATCH,
    DONE,
    ELSEWHERE,
    HELLO,
    LATENTS,
    LEAVING,
    MAX_COUNT,
    OPS,
    PIXELS,
    PROBLEM,
    TOKENS,
    WANTS,
    Answer,
    BadMessageError,
    Request,
    answer_bytes,
    cancellation,
    parse_cards,
    parse_many,
    parse_problem,
)
from service.link.peer import Peer, greet
from service.link.slots import Slot
from service.trace import packed_trace
from service.types import Decoded, Encoded, ModelCard, Op, Size, Timing, Want, size_of

WATCH_SECONDS = 0.1
PATIENCE_SECONDS = 10.0  # for a replacement, once the last tokenizer of the node was lost
REFUSED_SECONDS = 5.0
BATCH_MAX_BYTES = 2**24  # of one call of many items: a larger slot gives its pages back each time

log = logging.getLogger("ray.serve")


class NoTokenizerError(Exception):
    """No tokenizer process of this node can do the call, so another way must be taken."""


Outcome = Encoded | Decoded | ProblemError
EncodeOutcome = Encoded | ProblemError | NoTokenizerError


@dataclass(eq=False, slots=True)
class _Pending:
    future: asyncio.Future[list[Outcome]]
    card: ModelCard
    request: Request  # `model` and `seconds` are filled in when it is sent
    deadline: float
    owns_slots: bool = False  # because the dispatcher gave it up


class LinkClient:
    """The tokenizer processes whose sockets are in a folder.

    Args:
        directory: the path of a `SocketDirectory`.
        arena_bytes: of all arrays on their way.
        tries: tokenizers that a call may be lost with.
        retried: called for each call that is sent again.
    """

    def __init__(
        self, directory: Path, arena_bytes: int, tries: int, retried: Callable[[], None] = lambda: None
    ) -> None:
        self._directory, self._tries, self._retried = directory, tries, retried
        self._arena = Arena(arena_bytes)
        self._dispatcher = Dispatcher(self._arena.give_back)
        self._peers: dict[int, Peer] = {}
        self._calls: dict[int, Call] = {}  # whose callers wait
        self._ids = itertools.count(1)
        self._known: list[ModelCard] = []
        self._connecting: dict[str, asyncio.Task[None]] = {}  # by the name of the socket
        self._refused: dict[str, float] = {}  # and when it is tried again
        self._patient_until = 0.0
        self._loop = asyncio.get_running_loop()
        self._watcher = self._loop.create_task(self._watch())

    async def close(self) -> None:
        """Close all connections; calls that are not over fail."""
        tasks = [self._watcher, *self._connecting.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for peer in list(self._peers.values()):
            peer.abort()
        self._known = []  # who still calls takes another way
        await asyncio.sleep(0)
        self._give_up()
        self._arena.close()

    @property
    def cards(self) -> list[ModelCard]:
        """Return the bundles of the tokenizer that came last, the default one first; none if there is none."""
        return self._known if self._patient or any(self._dispatcher.serves(card.hash) for card in self._known) else []

    def takes(self, model: str) -> bool:
        """Return whether a call should come here: a tokenizer is there, or was a moment ago."""
        card = self._card(model)
        return card is not None and (self._dispatcher.serves(card.hash) or self._patient)

    async def encode(self, model: str, pixels: NDArray[np.uint8], want: Want, *, seconds: float) -> Encoded:
        """Encode uint8 RGB pixels (T, H, W, 3).

        Raises:
            ProblemError: the tokenizer's own; `overloaded` for a full arena, `deadline-exceeded`, `not-ready`.
            NoTokenizerError: none of this node does it.
        """
        return cast(Encoded, _single(await self._encode(model, [pixels], want, seconds)))

    async def encode_many(
        self, model: str, clips: Sequence[NDArray[np.uint8]], want: Want, *, seconds: float
    ) -> list[EncodeOutcome]:
        """Encode clips of one size by messages of many; return each one's outcome: `NoTokenizerError` if it is lost."""
        most = max(1, min(MAX_COUNT, BATCH_MAX_BYTES // clips[0].nbytes))
        groups = [clips[start : start + most] for start in range(0, len(clips), most)]
        outcomes = await asyncio.gather(*(self._encode(model, group, want, seconds) for group in groups))
        return [outcome for group in outcomes for outcome in group]

    async def _encode(
        self, model: str, clips: Sequence[NDArray[Any]], want: Want, seconds: float
    ) -> list[EncodeOutcome]:
        try:
            card, size = self._require(model), size_of(clips[0])
            answers = await self._call(card, "encode", PIXELS, clips, size, seconds, WANTS.index(want))
        except (ProblemError, NoTokenizerError) as reason:  # other groups compute, and keep their answers
            return [reason] * len(clips)
        return cast(list[EncodeOutcome], answers)

    async def decode(self, model: str, codes: NDArray[Any], size: Size, *, seconds: float) -> Decoded:
        """Decode tokens (t, h, w) or latents (t, h, w, c), cropped to `size`; errors as `encode`."""
        content, dtype = (LATENTS, np.float32) if codes.dtype.kind == "f" else (TOKENS, np.int32)
        array = codes.astype(dtype, copy=False)
        return cast(Decoded, _single(await self._call(self._require(model), "decode", content, [array], size, seconds)))

    async def reconstruct(self, model: str, pixels: NDArray[np.uint8], *, seconds: float) -> Decoded:
        """Encode and decode uint8 RGB pixels (T, H, W, 3); errors as `encode`."""
        card, size = self._require(model), size_of(pixels)
        return cast(Decoded, _single(await self._call(card, "reconstruct", PIXELS, [pixels], size, seconds)))

    def _require(self, model: str) -> ModelCard:
        card = self._card(model)
        if card is None:
            raise NoTokenizerError
        return card

    def _card(self, model: str) -> ModelCard | None:
        return next((card for card in self._known if card.id == model), None)

    def load(self) -> dict[str, float]:
        """Return the state of the link, by the names of its gauges."""
        return {
            "link_calls": self._dispatcher.outstanding,
            "link_waiting": self._dispatcher.waiting,
            "link_tokenizers": sum(bool(peer.models) for peer in self._peers.values()),
            "link_free_bytes": self.free_bytes,
        }

    @property
    def free_bytes(self) -> int:
        """Return the bytes of the arena that no call holds."""
        return self._arena.slots.free_bytes

    @property
    def _patient(self) -> bool:
        return self._loop.time() < self._patient_until

    async def _call(
        self,
        card: ModelCard,
        op: Op,
        content: int,
        arrays: Sequence[NDArray[Any]],
        size: Size,
        seconds: float,
        want: int = 0,
    ) -> list[Outcome]:
        array, count = arrays[0], len(arrays)
        nbytes, answer_length = count * array.nbytes, count * answer_bytes(card, OPS.index(op), want, size)
        slots = self._take_slots(nbytes, answer_length)
        self._arena.write(slots[0], arrays)
        place = (slots[0].offset, nbytes, slots[1].offset if answer_length else 0, answer_length)
        number, shape = next(self._ids), cast(tuple[int, int, int, int], (*array.shape, 0)[:4])
        context = (packed_trace(), current_flow.get().packed)
        request = Request(number, OPS.index(op), want, content, 0, shape, size, *place, 0.0, *context, count)
        pending = _Pending(self._loop.create_future(), card, request, self._loop.time() + seconds)
        cost = count * card.geometry.positions(size)
        tries = self._tries if count == 1 else 1  # one of many may be what ends tokenizers
        call = self._calls[number] = Call(number, card.hash, cost, slots, tries, pending)
        self._dispatcher.submit(call)
        try:
            self._forward(call)
            return await pending.future
        finally:
            del self._calls[number]
            if pending.owns_slots:
                for slot in slots:
                    self._arena.give_back(slot)
            elif (peer := self._dispatcher.cancel(call)) is not None:  # it still runs
                self._peers[peer].send(cancellation(number))

    def _take_slots(self, size: int, answer_size: int) -> tuple[Slot, ...]:
        """Return a slot for the arrays of a call, and one for its answer if that needs bytes."""
        slot = self._take(size)
        try:
            return (slot, self._take(answer_size)) if answer_size else (slot,)
        except Exception:
            self._arena.give_back(slot)
            raise

    def _take(self, size: int) -> Slot:
        if size > self._arena.slots.largest:
            raise NoTokenizerError
        slot = self._arena.slots.take(size)
        if slot is None:
            detail = f"The service holds {self._arena.size} bytes of other requests already. Try again in a moment."
            raise ProblemError("overloaded", detail, limit=self._arena.size, retry_after_seconds=1)
        return slot

    def _forward(self, call: Call) -> None:
        if call.peer is not None:
            pending: _Pending = call.payload
            peer = self._peers[call.peer]
            left = max(0.0, pending.deadline - self._loop.time())
            peer.send(pending.request._replace(model=peer.models[call.model], seconds=left).pack())

    def _again(self, call: Call) -> None:
        self._retried()
        self._forward(call)

    def answered(self, number: int, answer: Answer) -> None:
        """Take an answer of a tokenizer.

        Raises:
            BadMessageError: it cannot be meant.
        """
        if answer.kind == HELLO:
            self._known = parse_cards(answer.body)
            models = self._peers[number].models = {card.hash: index for index, card in enumerate(self._known)}
            for call in self._dispatcher.connect(number, models):
                self._forward(call)
            return
        if answer.kind == LEAVING:
            self.retire(number)
            return
        found = self._dispatcher.find(number, answer.id)
        if found is None:
            raise BadMessageError(f"Nobody asked for the answer {answer.id}.")
        if answer.kind == ELSEWHERE:
            self.retire(number)
            if self._dispatcher.move(found) is not None:
                self._again(found)
            return
        pending: _Pending = found.payload
        outcomes = None if found.abandoned else self._outcomes(pending, answer)
        self._dispatcher.finish(found)
        if outcomes is not None and not pending.future.done():
            pending.future.set_result(outcomes)

    def lost(self, number: int) -> None:
        """Forget a tokenizer whose socket closed."""
        peer = self._peers.pop(number)
        if not peer.models:  # it refused this process, perhaps for its version
            self._refused[peer.name] = self._loop.time() + REFUSED_SECONDS
            return
        loss = self._dispatcher.disconnect(number)
        self._expect_replacement()
        for call in loss.moved:
            self._again(call)
        for call in loss.failed:
            detail = "Every tokenizer that took the request was lost."
            problem = ProblemError("not-ready", detail, actual=self._tries, retry_after_seconds=1)
            self._fail(call, problem if call.payload.request.items == 1 else NoTokenizerError())

    def retire(self, number: int) -> None:
        """Send a tokenizer nothing more; another one comes."""
        if self._peers[number].models:
            self._dispatcher.retire(number)
            self._expect_replacement()

    def _expect_replacement(self) -> None:
        self._patient_until = self._loop.time() + PATIENCE_SECONDS

    def _outcomes(self, pending: _Pending, answer: Answer) -> list[Outcome]:
        count = pending.request.items
        if answer.kind == BATCH:
            answers = parse_many(answer.body, count)
        elif count == 1 and answer.kind in (DONE, PROBLEM):
            answers = [answer]
        else:
            raise BadMessageError(f"The call {answer.id} has an answer of kind {answer.kind} for {count} items.")
        return [self._outcome(pending, index, answer) for index, answer in enumerate(answers)]

    def _outcome(self, pending: _Pending, index: int, answer: Answer) -> Outcome:
        request, card = pending.request, pending.card
        if answer.kind == PROBLEM:
            return parse_problem(answer.body)
        timing = Timing(answer.queue_ms, answer.compute_ms, answer.batch)
        place = request.answer_offset + index * (request.answer_length // request.items)
        if OPS[request.op] != "encode":
            return Decoded(self._arena.array(place, "|u1", (*request.size, 3)).copy(), timing)
        want, grid = WANTS[request.want], card.geometry.grid(request.size)
        tokens = latents = None
        if want != "latents" and card.kind == "vq":
            if answer.token_bytes not in (2, 4) or len(answer.body) != math.prod(grid) * answer.token_bytes:
                raise BadMessageError(f"{len(answer.body)} bytes are not the tokens of a grid {grid}.")
            tokens = np.frombuffer(answer.body, f"<u{answer.token_bytes}").reshape(grid).astype(np.int32)
        if want != "tokens":
            latents = self._arena.array(place, "<f4", (*grid, card.latent_channels)).copy()
        return Encoded(tokens, latents, timing)

    def _fail(self, call: Call, error: Exception) -> None:
        if not call.payload.future.done():
            call.payload.future.set_exception(error)

    def _give_up(self) -> None:
        for call in self._dispatcher.give_up():
            call.payload.owns_slots = True
            self._fail(call, NoTokenizerError())

    async def _watch(self) -> None:
        looking, expiring = LoopFailures("the search for tokenizers"), LoopFailures("the end of calls that are late")
        while True:
            with looking.logged():  # no descriptor is free, perhaps; deadlines hold all the same
                self._look()
            await asyncio.sleep(WATCH_SECONDS)
            with expiring.logged():
                self._expire()

    def _expire(self) -> None:
        now = self._loop.time()
        for call in list(self._calls.values()):
            if call.payload.deadline <= now:
                detail = "The deadline passed before a tokenizer answered."
                self._fail(call, ProblemError("deadline-exceeded", detail))
        if not self._patient:
            self._give_up()

    def _look(self) -> None:
        names = {name for name in os.listdir(self._directory) if name.endswith(SUFFIX)}
        linked = {peer.name for peer in self._peers.values()} | set(self._connecting)
        now = self._loop.time()
        self._refused = {name: until for name, until in self._refused.items() if until > now and name in names}
        for name in names - linked - set(self._refused):
            self._connecting[name] = self._loop.create_task(self._connect(name))

    async def _connect(self, name: str) -> None:
        path = self._directory / name
        connection = socket.socket(socket.AF_UNIX)
        try:
            await asyncio.to_thread(greet, connection, path, self._arena.size, os.dup(self._arena.descriptor))
            peer = Peer(self, next(self._ids), name)
            self._peers[peer.number] = peer  # before it can hear of anything
            try:
                await self._loop.create_unix_connection(lambda: peer, sock=connection)
            except BaseException:
                self._peers.pop(peer.number, None)
                raise
        except ConnectionRefusedError:  # its process is dead
            path.unlink(missing_ok=True)
            connection.close()
        except Exception as error:  # of any kind: nobody waits for this task
            log.warning("a tokenizer replica could not be linked: %s", error)
            self._refused[name] = self._loop.time() + REFUSED_SECONDS
            connection.close()
        finally:
            del self._connecting[name]


def _single(outcomes: Sequence[Outcome | NoTokenizerError]) -> Encoded | Decoded:
    """Return the outcome of a call of one item, or raise it."""
    [outcome] = outcomes
    if isinstance(outcome, Exception):
        raise outcome
    return outcome
