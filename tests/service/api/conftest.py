"""One server for all tests of the HTTP tier."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import httpx
from api_server import Server
from bad_inputs import LIMITS
from waiting import SECONDS, eventually

from service.settings import Settings


@pytest.fixture(scope="package", autouse=True)
def _patient() -> Iterator[None]:
    """Wait for bodies as long as a busy machine takes; tests of slow ones set a time of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.api.body.SLOW_BODY_SECONDS", SECONDS)
        yield


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with Server(Settings(limits=LIMITS)) as running:
        yield running


@pytest.fixture(scope="session")
def http(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


@pytest.fixture
def fresh() -> Iterator[tuple[Server, httpx.Client]]:
    """A server of this test's own, to be broken."""
    with Server(Settings(limits=LIMITS)) as server:
        with httpx.Client(base_url=server.url, timeout=60) as client:
            yield server, client
        eventually(lambda: not any(server.counts.flying.values()))
