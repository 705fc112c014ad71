"""Draining over the folder that a replica and its stopper share: nothing accepted is lost, nothing new is taken."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send
from waiting import SECONDS

from service.api.drain import Gate, drain


class Slow:
    """An application whose work ends when the test says so."""

    def __init__(self) -> None:
        self.begun, self.end = asyncio.Event(), asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/encode":
            self.begun.set()
            await self.end.wait()
        await PlainTextResponse("done")(scope, receive, send)


def client(gate: Gate) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(gate), base_url="http://test")


async def until(client: httpx.AsyncClient, path: str, status: int) -> Any:
    while (answer := await client.get(path)).status_code != status:
        await asyncio.sleep(0.01)
    return answer


async def test_what_is_in_flight_ends_and_new_work_is_refused(tmp_path: Path) -> None:
    app = Slow()
    gate = Gate(app, tmp_path, notice_seconds=0.0)
    gate.start()
    async with client(gate) as http:
        accepted = asyncio.create_task(http.post("/encode"))
        await app.begun.wait()
        stopper = asyncio.create_task(asyncio.to_thread(drain, tmp_path, SECONDS))
        refused = await until(http, "/models", 503)
        assert refused.json()["code"] == "draining"
        assert int(refused.headers["Retry-After"]) > 0
        assert refused.headers["Connection"] == "close"
        assert (await http.get("/health/ready")).status_code == 503
        assert (await http.get("/health/live")).status_code == 200
        assert not stopper.done()
        app.end.set()
        assert (await accepted).status_code == 200
        assert await stopper


async def test_readiness_falls_before_work_is_refused(tmp_path: Path) -> None:
    gate = Gate(Slow(), tmp_path, notice_seconds=60.0)
    gate.start()
    async with client(gate) as http:
        assert (await http.get("/health/ready")).status_code == 200
        assert not await asyncio.to_thread(drain, tmp_path, 0.0)
        assert (await until(http, "/health/ready", 503)).json()["code"] == "draining"
        assert (await http.get("/models")).status_code == 200
    gate.stop()


async def test_work_that_does_not_end_is_waited_for_no_longer_than_asked(tmp_path: Path) -> None:
    app = Slow()
    gate = Gate(app, tmp_path, notice_seconds=0.0)
    gate.start()
    async with client(gate) as http:
        accepted = asyncio.create_task(http.post("/encode"))
        await app.begun.wait()
        assert not await asyncio.to_thread(drain, tmp_path, 0.3)
        app.end.set()
        await accepted
    gate.stop()


@pytest.mark.parametrize("stopped", [True, False])
async def test_nobody_waits_for_replicas_that_are_gone_or_never_were(tmp_path: Path, stopped: bool) -> None:
    if stopped:
        gate = Gate(Slow(), tmp_path, notice_seconds=60.0)
        gate.start()
        await asyncio.sleep(0)  # its watch begins
        gate.stop()
    assert await asyncio.to_thread(drain, tmp_path, SECONDS)


async def test_a_sign_that_cannot_be_looked_for_is_looked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.api.drain.POLL_SECONDS", 0.01)
    exists, looks = Path.exists, 0

    def broken(path: Path) -> bool:
        nonlocal looks
        looks += path.name == "draining"
        if looks == 1:
            raise PermissionError(path)
        return exists(path)

    monkeypatch.setattr(Path, "exists", broken)
    gate = Gate(Slow(), tmp_path, notice_seconds=0.0)
    gate.start()
    async with client(gate) as http:
        assert await asyncio.to_thread(drain, tmp_path, SECONDS)
        assert (await http.get("/models")).status_code == 503


async def test_a_replica_of_a_larger_cluster_is_drained_by_ray(tmp_path: Path) -> None:
    gate = Gate(Slow(), None, notice_seconds=0.0)
    gate.start()
    async with client(gate) as http:
        assert (await http.get("/health/ready")).status_code == 200
    gate.stop()
