"""Messages of the link: fixed structs, their framing, and the check of each against the arena it names."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import lru_cache
from hashlib import sha256
from typing import Any, Literal, NamedTuple

import numpy as np

from service.errors import PROBLEMS, ProblemError
from service.flow import PACKED_BYTES
from service.types import ModelCard, Op, Size, TokenizerKey, Want

GREETING = struct.Struct("<8sQ")  # magic, arena bytes; the arena's descriptor travels along

OPS: tuple[Op, ...] = ("encode", "decode", "reconstruct")
WANTS: tuple[Want, ...] = ("tokens", "latents", "both")
PIXELS, TOKENS, LATENTS = range(3)  # content of an array
CONTENTS: tuple[Literal["pixels", "tokens", "latents"], ...] = ("pixels", "tokens", "latents")
DTYPES = ("|u1", "<i4", "<f4")  # of them
CANCEL = 255  # in place of an op

# id, op, want, content, model, count, shape, size, offset, bytes, answer's offset, answer's bytes, seconds left, trace,
# flow
REQUEST = struct.Struct("<QBBBxHH4I3I4xQQQQd24s9s7x")
MAX_SECONDS = 86_400.0
MAX_COUNT = 1024
REMEMBERED_FORMS = 256  # sizes come from callers

HELLO, DONE, PROBLEM, ELSEWHERE, LEAVING, DROPPED, BATCH = range(7)  # kinds of answers
# total bytes, kind, bytes of a token, id, queue ms, compute ms, batch
ANSWER = struct.Struct("<IBB2xQffI")
MAX_ANSWER_BYTES = 2**24
# While an update rolls, both ends may be of different versions, which do not understand each other.
MAGIC = sha256(repr((REQUEST.format, ANSWER.format, OPS, WANTS, BATCH)).encode()).digest()[:8]


class BadMessageError(Exception):
    """A message that its sender cannot have meant; the link is closed."""


class Request(NamedTuple):
    """One call of one item or of many that are alike, or the cancellation of a call.

    Args:
        id: unique on its link.
        op: index in `OPS`, or `CANCEL`.
        want: index in `WANTS`.
        content: of the array: `PIXELS`, `TOKENS` (int32) or `LATENTS` (float32).
        model: index among the bundles that the tokenizer named.
        shape: of an item's array; its fourth axis is 3 for pixels, 0 for tokens, the channels for latents.
        size: frames, height and width of the pixels of an item that go in or come out.
        offset, length: where the arrays are in the arena, one behind the other, bytes.
        answer_offset, answer_length: where pixels or latents of the answers go; 0 bytes if there are none.
        seconds: time left.
        trace: ids of the caller's trace and span, or zeros.
        flow: whose share it takes, packed.
        items: their number.
    """

    id: int
    op: int
    want: int
    content: int
    model: int
    shape: tuple[int, int, int, int]
    size: Size
    offset: int
    length: int
    answer_offset: int
    answer_length: int
    seconds: float
    trace: bytes = bytes(24)
    flow: bytes = bytes(PACKED_BYTES)
    items: int = 1

    def pack(self) -> bytes:
        """Return the message."""
        id, op, want, content, model, shape, size, *places, items = self
        return REQUEST.pack(id, op, want, content, model, items, *shape, *size, *places)


class Answer(NamedTuple):
    """One answer, or news of the tokenizer.

    Args:
        kind: `HELLO` (body: the bundles), `DONE` (body: tokens), `PROBLEM` (body: a refusal), `ELSEWHERE` (another
            tokenizer must do it), `LEAVING` (send nothing more), `DROPPED` (a cancelled call reads its slot no more),
            `BATCH` (body: a `DONE` or a `PROBLEM` for each item of the call, in order).
        id: of the request, 0 for news.
        token_bytes: 2 or 4, the size of one token in the body.
        queue_ms, compute_ms, batch: timing.
        body: bytes.
    """

    kind: int
    id: int = 0
    token_bytes: int = 0
    queue_ms: float = 0.0
    compute_ms: float = 0.0
    batch: int = 0
    body: bytes = b""

    def pack(self) -> bytes:
        """Return the message."""
        total = ANSWER.size + len(self.body)
        head = (total, self.kind, self.token_bytes, self.id, self.queue_ms, self.compute_ms, self.batch)
        return ANSWER.pack(*head) + self.body


def cancellation(request_id: int) -> bytes:
    """Return the message that cancels a call."""
    return Request(request_id, CANCEL, 0, 0, 0, (0, 0, 0, 0), (0, 0, 0), 0, 0, 0, 0, 0.0).pack()


class RequestReader:
    """Requests out of a stream of bytes."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Request]:
        """Return the requests that are complete now."""
        data = self._rest + data if self._rest else data
        whole = len(data) - len(data) % REQUEST.size
        self._rest = data[whole:]
        return [
            Request._make((*fields[:5], fields[6:10], fields[10:13], *fields[13:], fields[5]))
            for fields in REQUEST.iter_unpack(memoryview(data)[:whole])
        ]


class AnswerReader:
    """Answers out of a stream of bytes."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Answer]:
        """Yield the answers that are complete now; exhaust it before the next call.

        Raises:
            BadMessageError: a length is impossible.
        """
        data = self._rest + data if self._rest else data
        start = 0
        while len(data) - start >= ANSWER.size:
            total, kind, token_bytes, request_id, queue_ms, compute_ms, batch = ANSWER.unpack_from(data, start)
            if not ANSWER.size <= total <= MAX_ANSWER_BYTES or kind > BATCH:
                raise BadMessageError(f"An answer of kind {kind} has {total} bytes.")
            if len(data) - start < total:
                break
            body = data[start + ANSWER.size : start + total]
            start += total
            yield Answer(kind, request_id, token_bytes, queue_ms, compute_ms, batch, body)
        self._rest = data[start:]


def parse_many(body: bytes, count: int) -> list[Answer]:
    """Return the answers of a `BATCH`.

    Raises:
        BadMessageError: they are not `count` answers of items.
    """
    answers = list(AnswerReader().feed(body))
    if [answer.id for answer in answers] != list(range(count)) or {answer.kind for answer in answers} - {DONE, PROBLEM}:
        raise BadMessageError(f"The answers of a call are not those of its {count} items.")
    return answers


class Form(NamedTuple):
    """The common part of calls that are alike.

    Args:
        card: the bundle.
        key: what their items may share a batch with.
        cost: latent positions of an item.
        shape: of an item's array, without an axis that there is not.
        dtype: of it.
        item_bytes: of it.
        answer_bytes: of an item in the arena.
        token_dtype: as tokens travel.
    """

    card: ModelCard
    key: TokenizerKey
    cost: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    item_bytes: int
    answer_bytes: int
    token_dtype: np.dtype[Any]


class Forms:
    """The check of requests. Few differ in form, so the forms that came lately are remembered.

    Args:
        cards: the bundles that are served.
    """

    def __init__(self, cards: Sequence[ModelCard]) -> None:
        self._cards = cards
        self._form = lru_cache(REMEMBERED_FORMS)(self._make)

    def check(self, request: Request, arena_bytes: int) -> Form:
        """Return the form of a request.

        Args:
            request: anything but a cancellation, from a process that may be hostile.
            arena_bytes: size of its arena.

        Raises:
            BadMessageError: an offset, a length, a shape or a number does not fit.
        """
        form = self._form(*request[1:7])
        if not 0 <= request.seconds <= MAX_SECONDS:
            raise BadMessageError(f"A request has {request.seconds=}, which is not a time.")
        items = request.items
        if not 1 <= items <= MAX_COUNT:
            raise BadMessageError(f"A request has {request.items=}, which is not from 1 to {MAX_COUNT}.")
        if request.length != items * form.item_bytes:
            raise BadMessageError(f"A request has {request.length=}, which does not fit {request.shape=}.")
        if request.answer_length != items * form.answer_bytes:
            raise BadMessageError(f"A request has {request.answer_length=}, which does not fit {request.size=}.")
        end, answer_end = request.offset + request.length, request.answer_offset + request.answer_length
        if max(end, answer_end) > arena_bytes:
            raise BadMessageError(f"A request has {end=} or {answer_end=}, which is over {arena_bytes} bytes.")
        if request.answer_length and request.offset < answer_end and request.answer_offset < end:
            raise BadMessageError("The array and its answer overlap.")
        return form

    def _make(self, op: int, want: int, content: int, model: int, shape: tuple[int, int, int, int], size: Size) -> Form:
        if op >= len(OPS) or want >= len(WANTS) or content > LATENTS:
            raise BadMessageError(f"A request has {op=}, {want=} and {content=}: unknown.")
        if model >= len(self._cards):
            raise BadMessageError(f"A request has {model=}, which is over {len(self._cards)} bundles.")
        card = self._cards[model]
        if min(*size, *shape[:3]) < 1 or shape != array_shape(card, op, content, size):
            raise BadMessageError(f"A request has {shape=}, which does not fit {size=}.")
        key = TokenizerKey(card.id, OPS[op], CONTENTS[content], size, WANTS[want] if OPS[op] == "encode" else "both")
        axes, dtype = shape if shape[3] else shape[:3], np.dtype(DTYPES[content])
        token_dtype = np.dtype("<u2" if card.codebook_size is not None and card.codebook_size <= 2**16 else "<u4")
        item_bytes, cost = math.prod(axes) * dtype.itemsize, card.geometry.positions(size)
        return Form(card, key, cost, axes, dtype, item_bytes, answer_bytes(card, op, want, size), token_dtype)


def array_shape(card: ModelCard, op: int, content: int, size: Size) -> tuple[int, int, int, int]:
    """Return the shape that the array of a call must have, with 0 for an axis that there is not."""
    if OPS[op] != "decode":
        return (*size, 3) if content == PIXELS else (0, 0, 0, 0)
    channels = {TOKENS: 0, LATENTS: card.latent_channels}.get(content)
    return (0, 0, 0, 0) if channels is None else (*card.geometry.grid(size), channels)


def answer_bytes(card: ModelCard, op: int, want: int, size: Size) -> int:
    """Return the bytes that the answer of an item needs in the arena; tokens travel in the message."""
    if OPS[op] != "encode":
        return math.prod(size) * 3
    return 0 if WANTS[want] == "tokens" else card.geometry.positions(size) * card.latent_channels * 4


def pack_cards(cards: Sequence[ModelCard]) -> bytes:
    """Return the body of `HELLO`."""
    return json.dumps([asdict(card) for card in cards]).encode()


def parse_cards(body: bytes) -> list[ModelCard]:
    """Return the bundles of a `HELLO`.

    Raises:
        BadMessageError: the body is not a list of bundles.
    """
    try:
        return [ModelCard(**card) for card in json.loads(body)]
    except (ValueError, TypeError) as error:
        raise BadMessageError("The bundles of a tokenizer cannot be read.") from error


def pack_problem(problem: ProblemError) -> bytes:
    """Return the body of `PROBLEM`."""
    return json.dumps(problem.__reduce__()[1]).encode()


def parse_problem(body: bytes) -> ProblemError:
    """Return the refusal of a `PROBLEM`.

    Raises:
        BadMessageError: the body is not a refusal.
    """
    try:
        fields: list[Any] = json.loads(body)
        if fields[0] not in PROBLEMS:
            raise ValueError(fields[0])
        return ProblemError(*fields)
    except (ValueError, TypeError, LookupError) as error:
        raise BadMessageError("A refusal of a tokenizer cannot be read.") from error
