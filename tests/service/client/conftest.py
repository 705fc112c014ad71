"""Both clients, and the real HTTP tier for them to talk to."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "api"))

from api_server import Server
from client_kinds import Blocking, Connect

from service.client import Client
from service.settings import Settings


@pytest.fixture(params=[Client, Blocking], ids=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Connect:
    def opened(url: str, waits: list[float] | None = None, **arguments: Any) -> Any:
        return request.param(url, sleep=([] if waits is None else waits).append, **arguments)

    return opened


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with Server(Settings(stream_chunk_tokens=16)) as running:
        yield running


@pytest.fixture
def client(connect: Connect, server: Server) -> Iterator[Any]:
    with connect(server.url, retries=0) as opened:
        yield opened
