"""Messages survive any cut of the stream, and none that is checked leads outside the arena."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import ProblemError
from service.flow import PACKED_BYTES, PRIORITIES, Flow
from service.link.messages import (
    ANSWER,
    CANCEL,
    DONE,
    DTYPES,
    LATENTS,
    PIXELS,
    REQUEST,
    TOKENS,
    Answer,
    AnswerReader,
    BadMessageError,
    Forms,
    Request,
    RequestReader,
    answer_bytes,
    cancellation,
    pack_cards,
    pack_problem,
    parse_cards,
    parse_problem,
)
from service.types import ModelCard

CARD = ModelCard("vq", "a" * 64, "vq", 512, 8, 8, 4, "causal", True, 1, "cpu", "float32")
ARENA_BYTES = 2**20
GOOD = Request(1, 0, 0, PIXELS, 0, (1, 16, 16, 3), (1, 16, 16), 64, 768, 0, 0, 1.5)

WORD = st.integers(0, 2**64 - 1)
SIDE = st.integers(0, 2**32 - 1)
BYTE = st.integers(0, 255)
REQUESTS = st.builds(
    Request,
    WORD,
    st.integers(0, 3),
    st.integers(0, 3),
    st.integers(0, 3),
    st.integers(0, 1),
    st.tuples(SIDE, SIDE, SIDE, SIDE),
    st.tuples(SIDE, SIDE, SIDE),
    WORD,
    WORD,
    WORD,
    WORD,
    st.floats(),
    st.binary(min_size=24, max_size=24),
    st.binary(min_size=PACKED_BYTES, max_size=PACKED_BYTES),
    st.integers(0, 2**16 - 1),
)
ANSWERS = st.builds(
    Answer,
    st.integers(0, 5),
    WORD,
    BYTE,
    st.floats(width=32, allow_nan=False),
    st.floats(width=32, allow_nan=False),
    st.integers(0, 2**32 - 1),
    st.binary(max_size=50),
)


def test_a_flow_of_another_process_is_known_again() -> None:
    flows = [Flow(caller, priority) for caller in (None, "key a", "10.0.0.1:80") for priority in PRIORITIES]
    received = [Flow.unpack(flow.packed) for flow in flows]
    assert [flow.priority for flow in received] == [flow.priority for flow in flows]
    assert len({flow.caller for flow in received}) == 3
    with pytest.raises(ValueError, match="the last below 2"):
        Flow.unpack(bytes(8) + b"\2")


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted(place % (len(data) + 1) for place in places)
    return [data[start:end] for start, end in zip([0, *ends], [*ends, len(data)], strict=True)]


@given(st.lists(REQUESTS, max_size=5), st.lists(st.integers(0, 10_000), max_size=8))
def test_requests_come_out_of_any_stream(requests: list[Request], places: list[int]) -> None:
    reader = RequestReader()
    stream = b"".join(request.pack() for request in requests)
    read = [request.pack() for piece in cut(stream, places) for request in reader.feed(piece)]
    assert b"".join(read) == stream
    assert len(read) == len(requests)


@given(st.lists(ANSWERS, max_size=5), st.lists(st.integers(0, 10_000), max_size=8))
def test_answers_come_out_of_any_stream(answers: list[Answer], places: list[int]) -> None:
    reader = AnswerReader()
    stream = b"".join(answer.pack() for answer in answers)
    assert [answer for piece in cut(stream, places) for answer in reader.feed(piece)] == answers


def check(request: Request) -> None:
    Forms([CARD]).check(request, ARENA_BYTES)


@given(REQUESTS)
def test_a_request_that_passes_is_inside_the_arena(request: Request) -> None:
    try:
        check(request)
    except BadMessageError:
        return
    assert request.offset + request.length <= ARENA_BYTES
    assert request.answer_offset + request.answer_length <= ARENA_BYTES
    each = math.prod(request.shape[:3]) * (request.shape[3] or 1) * np.dtype(DTYPES[request.content]).itemsize
    assert request.items * each == request.length


LATENT_CALL = GOOD._replace(
    op=1, content=LATENTS, shape=(1, 2, 2, 8), length=128, answer_offset=4096, answer_length=768
)


@pytest.mark.parametrize(
    "request_",
    [
        GOOD,
        GOOD._replace(want=1, answer_offset=4096, answer_length=128),
        GOOD._replace(op=2, answer_offset=4096, answer_length=768),
        LATENT_CALL,
        LATENT_CALL._replace(content=TOKENS, shape=(1, 2, 2, 0), length=16),
        GOOD._replace(items=3, length=3 * 768),
        GOOD._replace(items=3, length=3 * 768, want=1, answer_offset=4096, answer_length=3 * 128),
    ],
)
def test_a_request_that_fits_passes(request_: Request) -> None:
    check(request_)


@pytest.mark.parametrize(
    "change",
    [
        {"op": 3},
        {"op": 1},
        {"want": 3},
        {"want": 1},
        {"content": 3},
        {"content": TOKENS},
        {"model": 1},
        {"shape": (1, 16, 17, 3)},
        {"size": (0, 16, 16)},
        {"length": 767},
        {"items": 0, "length": 0},
        {"items": 2},
        {"items": 1025, "length": 1025 * 768},
        {"items": 2, "length": 2 * 768, "want": 1, "answer_offset": 4096, "answer_length": 128},
        {"offset": ARENA_BYTES - 767},
        {"offset": 2**64 - 1},
        {"answer_length": 1},
        {"want": 1, "answer_offset": 700, "answer_length": 128},
        {"want": 1, "answer_offset": ARENA_BYTES - 127, "answer_length": 128},
        {"content": LATENTS, "shape": (0, 0, 0, 0), "length": 0},
        {"seconds": -1.0},
        {"seconds": math.nan},
        {"seconds": math.inf},
    ],
    ids=str,
)
def test_a_request_that_does_not_fit_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(BadMessageError):
        check(GOOD._replace(**change))


def test_a_cancellation_names_its_call() -> None:
    [request] = RequestReader().feed(cancellation(7))
    assert (request.id, request.op) == (7, CANCEL)
    assert len(cancellation(7)) == REQUEST.size


@pytest.mark.parametrize("total", [0, ANSWER.size - 1, 2**31])
def test_an_answer_of_impossible_length_is_refused(total: int) -> None:
    with pytest.raises(BadMessageError):
        list(AnswerReader().feed(ANSWER.pack(total, DONE, 2, 1, 0.0, 0.0, 1)))


def test_bundles_and_refusals_come_through() -> None:
    cards = [CARD, replace(CARD, id="vae", kind="vae", codebook_size=None)]
    assert parse_cards(pack_cards(cards)) == cards
    problem = ProblemError("overloaded", "The queue is full.", limit=1, actual=2, retry_after_seconds=3.0)
    assert parse_problem(pack_problem(problem)) == problem


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'["nonsense", "x"]', b"\xff", b"1"])
def test_nonsense_is_refused(body: bytes) -> None:
    with pytest.raises(BadMessageError):
        parse_problem(body)
    if body != b"[]":
        with pytest.raises(BadMessageError):
            parse_cards(body)


def test_latents_need_bytes_in_the_arena() -> None:
    assert answer_bytes(CARD, 0, 0, (1, 16, 16)) == 0
    assert answer_bytes(CARD, 0, 2, (5, 16, 16)) == 2 * 2 * 2 * 8 * 4
