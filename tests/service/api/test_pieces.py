"""Bodies that are read and answers that are sent a piece at a time."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import httpx
import numpy as np
import pytest
from api_server import VQ, Server
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from waiting import SECONDS, until

from service.api.admission import Admission
from service.api.send import send_piece
from service.api.streaming import BodyStream
from service.errors import ProblemError
from service.formats import records
from service.formats.media_types import MSGPACK_SEQUENCE
from service.formats.records import Begin, Part, RecordReader, RecordWriter
from service.settings import Limits, Settings


@given(st.binary(max_size=9), st.booleans())
def test_a_piece_leaves_in_slices_so_that_a_slow_reader_shows_that_it_reads(data: bytes, more: bool) -> None:
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.api.send.SLICE_BYTES", 4)
        asyncio.run(send_piece(send, data, SECONDS, more))
    assert b"".join(message["body"] for message in sent) == data
    assert max(len(message["body"]) for message in sent) <= 4
    assert [message["more_body"] for message in sent] == [True] * (len(sent) - 1) + [more]


async def test_a_stream_that_gave_way_ends_even_if_a_piece_came_at_that_moment() -> None:
    loop = asyncio.get_running_loop()
    arriving: asyncio.Future[dict[str, Any]] = loop.create_future()
    with Admission(Settings()).stream("a") as place:

        async def receive() -> dict[str, Any]:
            return await arriving

        body = BodyStream(Request({"type": "http", "headers": []}, receive), Limits(), place)
        piece = asyncio.ensure_future(anext(aiter(body)))
        await until(lambda: place.give_way is not None)
        give_way = place.give_way
        assert give_way is not None

        def make_place() -> None:
            place.gave_way = True
            give_way()

        arriving.set_result({"type": "http.request", "body": b"a", "more_body": True})
        loop.call_soon(make_place)  # the piece waits in the body's queue by then, and nobody has taken it
        with pytest.raises(ProblemError, match="the slowest"):
            await piece
        body.close()


def test_large_parts_of_streams_are_read_and_written_on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    on_loop = list[str]()

    def spy(name: str) -> None:
        original = getattr(records, name)

        def call(*arguments: Any) -> Any:
            with suppress(RuntimeError):
                asyncio.get_running_loop()
                on_loop.append(name)
            return original(*arguments)

        monkeypatch.setattr(records, name, call)

    writer = RecordWriter()
    parts = [writer.part(Part("tokens", np.zeros((2, 2, 2), np.uint16))) for _ in range(3)]
    body = b"".join([writer.begin(Begin(bundle=VQ.hash)), *parts, writer.end(21)])
    monkeypatch.setattr("service.offload.COPY_INLINE_BYTES", 40)
    spy("pack_tensor")
    spy("unpack_tensor")
    with Server(Settings()) as server:
        headers = {"Content-Type": MSGPACK_SEQUENCE}
        answer = httpx.post(f"{server.url}/decode", content=body, headers=headers, timeout=SECONDS)
    assert not on_loop
    assert sum(len(record.array) for record in RecordReader().feed(answer.content) if isinstance(record, Part)) == 21
