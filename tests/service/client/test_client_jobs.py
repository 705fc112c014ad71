"""Jobs through both clients, and streams of events that end or break."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from api_server import Server
from client_kinds import Connect

from service.api.routes import jobs as routes
from service.client import AsyncClient, Client, ServiceError, read_arrays, read_codes


@pytest.fixture
def client(connect: Connect, server: Server) -> Any:
    with connect(server.url) as client:
        yield client


def test_a_job_is_submitted_and_fetched(client: Client) -> None:
    job = client.submit("red fox", n=2, seed=5)
    assert job.status == "queued"
    done = client.wait(job)
    assert (done.id, done.status, done.done) == (job.id, "completed", done.total)
    samples = read_arrays(client.content(done))
    direct = client.generate("red fox", n=2, seed=5)
    for made, same in zip(samples.samples, direct.samples, strict=True):
        np.testing.assert_array_equal(made.pixels, same.pixels)
    assert client.job(job.id) == done
    assert client.jobs(limit=1) == [done]
    client.cancel(done)
    with pytest.raises(ServiceError) as gone:
        client.job(done)
    assert gone.value.code == "unknown-job"


def test_content_has_the_form_that_was_asked_for(client: Client) -> None:
    video = client.wait(client.submit(0, kind="video", accept="video/mp4"))
    assert video.media_type == "video/mp4"
    assert client.content(video)[4:8] == b"ftyp"
    tokens = client.wait(client.submit(0, output="tokens"))
    assert read_codes(client.content(tokens)).tokens is not None
    prefix = np.zeros((1, 32, 32, 3), np.uint8)
    assert client.wait(client.submit(0, prefix=prefix, frames=5)).fields["size"]["frames"] == 5


def test_a_stream_that_breaks_or_ends_is_resumed(
    client: Client, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "STREAM_SECONDS", 0.5)
    streams = 0
    send_events = routes.JobEvents.__call__

    async def numbered(self: Any, scope: Any, receive: Any, send: Any) -> None:
        nonlocal streams
        streams += 1
        if streams == 1:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            raise RuntimeError("the stream breaks")
        await send_events(self, scope, receive, send)

    async def stall() -> None:
        while streams < 3:
            await asyncio.sleep(0.01)

    monkeypatch.setattr(routes.JobEvents, "__call__", numbered)
    server.generators.stall = stall
    try:
        events = list(client.job_events(client.submit(0)))
    finally:
        server.generators.stall = None
    assert streams >= 3
    assert [event.name for event in events][:2] == ["queued", "started"]
    assert events[-1].name == "completed"
    numbers = [event.number for event in events]
    assert numbers == sorted(set(numbers))


def test_waiting_for_a_job_that_fails_says_why(client: Client) -> None:
    with pytest.raises(ServiceError) as failed:
        client.wait(client.submit(0, prefix=b"\x89PNG\r\n\x1a\n and no more", frames=5))
    assert failed.value.code == "corrupt-media"
    assert failed.value.status == 422


async def test_a_cancelled_job_ends_its_waiting(server: Server) -> None:
    server.generators.stall = asyncio.Event().wait  # type: ignore[assignment]
    try:
        async with AsyncClient(server.url) as client:
            job = await client.submit(0)
            waiting = asyncio.create_task(client.wait(job))
            assert (await client.cancel(job)).status == "cancelled"
            with pytest.raises(ServiceError, match="was cancelled"):
                await waiting
    finally:
        server.generators.stall = None
