"""Large data are copied on threads, so that the event loop goes on meanwhile."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest
from starlette.requests import Request
from starlette.types import Message

from service import offload as module
from service.api.admission import Place
from service.api.body import read_body
from service.api.deadline import Deadline
from service.api.routes.remote_vae import LATENTS
from service.offload import offload
from service.settings import Limits


async def test_what_is_larger_than_the_bound_is_copied_on_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COPY_INLINE_BYTES", 4)
    loop = threading.get_ident()
    assert await offload(4, threading.get_ident) == loop
    assert await offload(5, threading.get_ident) != loop


async def test_the_pieces_of_a_large_body_are_joined_on_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COPY_INLINE_BYTES", 4)
    offloaded = list[Any]()

    async def noted(work: Any, *arguments: Any) -> Any:
        offloaded.append(work(*arguments))
        return offloaded[-1]

    monkeypatch.setattr(asyncio, "to_thread", noted)
    for pieces in ((b"ab", b"cd"), (b"ab", b"cde")):
        messages: list[Message] = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
        messages[-1]["more_body"] = False

        async def receive(messages: list[Message] = messages) -> Message:
            return messages.pop(0)

        request = Request({"type": "http", "method": "POST", "headers": []}, receive)
        deadline = Deadline(time.perf_counter(), 60.0)
        body = await read_body(request, LATENTS, Limits(), Place((), time.monotonic), deadline)
        assert body.data == b"".join(pieces)
    assert offloaded == [b"abcde"]
