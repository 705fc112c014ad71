"""Jobs over HTTP: submission, life, events with resume, content, refusals, callers, restarts."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from api_media import picture
from api_server import VQ, Server
from bad_inputs import LIMITS
from starlette.requests import Request
from waiting import eventually

from service.api.errors import ClientGoneError
from service.api.large_answers import MAX_UNSENT_BYTES
from service.api.readers import MAX_READERS, Readers
from service.api.routes import jobs as job_routes
from service.errors import ProblemError
from service.formats.codes import read_codes
from service.formats.samples import read_arrays
from service.jobs.request import JobRequest
from service.keys import new_key, write_keys
from service.settings import Limits, Settings

ASYNC = {"Prefer": "respond-async"}


def submit(http: httpx.Client, query: str = "", headers: dict[str, str] | None = None, **body: Any) -> dict[str, Any]:
    answer = http.post(f"/generate?{query}", headers=ASYNC | (headers or {}), **body)
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    assert answer.headers["location"] == f"/jobs/{job['id']}" == job["links"]["self"]
    assert answer.headers["preference-applied"] == "respond-async"
    return job


def wait(http: httpx.Client, job: dict[str, Any], status: str = "completed") -> dict[str, Any]:
    def state() -> dict[str, Any]:
        answer: dict[str, Any] = http.get(job["links"]["self"]).json()
        return answer

    eventually(lambda: state()["status"] == status)
    return state()


def read_events(http: httpx.Client, job: dict[str, Any], after: str | None = None) -> list[tuple[int, str, Any]]:
    headers = {} if after is None else {"Last-Event-ID": after}
    answer = http.get(job["links"]["events"], headers=headers)
    assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (200, "text/event-stream")
    blocks = [dict(line.split(": ", 1) for line in block.splitlines()) for block in answer.text.split("\n\n") if block]
    return [(int(block["id"]), block["event"], json.loads(block["data"])) for block in blocks if "id" in block]


@contextmanager
def held(server: Server) -> Iterator[threading.Event]:
    """Hold the generators until the event is set."""
    gate = threading.Event()

    async def stall() -> None:
        while not gate.is_set():
            await asyncio.sleep(0.01)

    server.generators.stall = stall
    try:
        yield gate
    finally:
        gate.set()
        server.generators.stall = None


def refused(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    document: dict[str, Any] = answer.json()
    assert (answer.status_code, document["code"]) == (status, code)
    return document


def test_a_job_makes_what_an_answer_holds(http: httpx.Client) -> None:
    job = submit(http, "class=1&seed=5")
    assert (job["status"], job["seed"], job["class_name"], job["samples"]) == ("queued", 5, "red fox", 1)
    done = wait(http, job)
    answer = http.get(done["links"]["content"])
    assert answer.headers["content-type"] == done["content"]["media_type"] == "image/png"
    assert answer.content == http.post("/generate?class=1&seed=5").content
    assert len(answer.content) == done["content"]["bytes"]
    assert done["progress"] == {"done": 16, "total": 16}
    assert done["created_at"] <= done["started_at"] <= done["finished_at"]
    assert done["id"] in [entry["id"] for entry in http.get("/jobs").json()["data"]]


def test_a_seed_is_chosen_once(http: httpx.Client) -> None:
    job = wait(http, submit(http, "class=2&output=tokens", {"Accept": "application/msgpack"}))
    made = read_codes(http.get(job["links"]["content"]).content)
    same = http.post(f"/generate?class=2&output=tokens&seed={job['seed']}", headers={"Accept": "application/msgpack"})
    assert made.tokens is not None
    assert made.tokens.tolist() == read_codes(same.content).tokens.tolist()


def test_accept_chooses_the_content(http: httpx.Client) -> None:
    body = {"class": 0, "n": 2, "seed": 1, "output": "both"}
    job = wait(http, submit(http, headers={"Accept": "application/msgpack"}, json=body))
    samples = read_arrays(http.get(job["links"]["content"]).content)
    assert len(samples.samples) == 2
    job = wait(http, submit(http, "class=0", {"Accept": "image/webp, text/event-stream"}))
    assert job["content"]["media_type"] == "image/webp"


@pytest.mark.parametrize("form", ["media", "array", "codes"])
def test_a_prefix_of_any_form_waits_with_its_job(http: httpx.Client, form: str) -> None:
    headers = {"Content-Type": "image/png"}
    body = picture(height=32, width=32)
    if form == "codes":
        body = http.post("/encode", content=body, headers=headers | {"Accept": "application/x-npz"}).content
        headers = {"Content-Type": "application/x-npz"}
    if form == "array":
        pixels = {"dtype": "|u1", "shape": [32, 32, 3], "data": "AAAA" * 1024}
        job = submit(http, json={"class": 0, "frames": 5, "seed": 2, "array": pixels})
        same = http.post("/generate", json={"class": 0, "frames": 5, "seed": 2, "array": pixels})
    else:
        job = submit(http, "class=0&frames=5&seed=2", headers, content=body)
        same = http.post("/generate?class=0&frames=5&seed=2", headers=headers, content=body)
    assert http.get(wait(http, job)["links"]["content"]).content == same.content


def test_a_large_prefix_of_a_job_holds_up_no_other_request(http: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    on_loop: list[bool] = []

    def noting(work: Any) -> Any:
        def noted(*arguments: Any) -> Any:
            try:
                asyncio.get_running_loop()
            except RuntimeError:
                on_loop.append(False)
            else:
                on_loop.append(True)
            return work(*arguments)

        return noted

    monkeypatch.setattr(JobRequest, "pack", noting(JobRequest.pack))
    monkeypatch.setattr(JobRequest, "unpack", noting(JobRequest.unpack))
    wait(http, submit(http, "class=0&frames=5&seed=2", {"Content-Type": "image/png"}, content=picture()))
    assert on_loop == [False] * 3, "it is packed for the store and for its fingerprint, and unpacked once"


def test_long_content_comes_in_pieces(http: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_routes, "PIECE_BYTES", 1000)
    job = wait(http, submit(http, "class=0&n=4&seed=3", {"Accept": "application/msgpack"}))
    answer = http.get(job["links"]["content"])
    assert int(answer.headers["content-length"]) == len(answer.content) == job["content"]["bytes"] > 3000
    whole = http.post("/generate?class=0&n=4&seed=3", headers={"Accept": "application/msgpack"}).content
    made, same = read_arrays(answer.content), read_arrays(whole)
    assert [sample.pixels.tolist() for sample in made.samples] == [sample.pixels.tolist() for sample in same.samples]
    head = http.head(job["links"]["content"])
    assert (head.status_code, head.headers["content-length"]) == (200, answer.headers["content-length"])


async def test_a_crowd_of_slow_readers_holds_little_of_a_content() -> None:
    """Each holds the piece that it has not taken, and not the first one for as long as it reads."""
    assert MAX_READERS * job_routes.PIECE_BYTES <= MAX_UNSENT_BYTES / 2
    held: list[bool] = []

    async def read(*arguments: Any) -> bytes:
        held.append(any(first is value for value in vars(response).values()))
        return b"last"

    async def wait_for_ever() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None: ...

    first = bytes(bytearray(b"first"))
    services: Any = SimpleNamespace(jobs=SimpleNamespace(read=read), readers=Readers(), settings=Settings())
    job: Any = SimpleNamespace(id="job_1", owner="", media_type="image/png", content_bytes=9)
    response = job_routes.JobContent(services, job, first)
    await response({"type": "http"}, wait_for_ever, send)
    assert held == [False]


async def test_content_that_is_shorter_than_its_record_ends_its_answer() -> None:
    class Damaged:
        calls = 0

        async def read(self, *arguments: Any) -> bytes:
            self.calls += 1
            assert self.calls == 1, "there is no more of it"
            return b""

    async def wait_for_ever() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None: ...

    services: Any = SimpleNamespace(jobs=Damaged(), readers=Readers(), settings=Settings())
    job: Any = SimpleNamespace(id="job_1", owner="", media_type="image/png", content_bytes=10)
    with pytest.raises(ClientGoneError):
        await job_routes.JobContent(services, job, b"first")({"type": "http"}, wait_for_ever, send)


@pytest.mark.parametrize("answer", ["content", "events"])
async def test_a_reader_that_takes_nothing_is_given_up_after_the_time_that_is_set(answer: str) -> None:
    async def wait_for_ever(*_: Any) -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            await wait_for_ever()

    settings = Settings(limits=Limits(stream_idle_seconds=0.01))
    services: Any = SimpleNamespace(jobs=None, job_polls=None, readers=Readers(), settings=settings)
    job: Any = SimpleNamespace(id="job_1", owner="", media_type="image/png", content_bytes=9)
    request = Request({"type": "http", "headers": [], "state": {}})
    response = {
        "content": lambda: job_routes.JobContent(services, job, b"first"),
        "events": lambda: job_routes.JobEvents(request, services, job.id, 0),
    }[answer]()
    async with asyncio.timeout(20):  # the default is 30
        with pytest.raises(ClientGoneError):
            await response({"type": "http"}, wait_for_ever, send)


def test_events_are_resumed(http: httpx.Client, server: Server) -> None:
    with held(server) as gate:
        job = submit(http, "class=0&n=3")
        wait(http, job, "in_progress")
        refused(http.get(f"{job['links']['self']}/content"), 409, "job-unfinished")
        gate.set()
        seen = read_events(http, job)
    names = [name for _, name, _ in seen]
    assert names[:2] == ["queued", "started"]
    assert names[-1] == "completed"
    assert [number for number, _, _ in seen] == sorted(number for number, _, _ in seen)
    assert read_events(http, job, str(seen[1][0])) == read_events(http, job)[-(len(read_events(http, job)) - 2) :]
    last = str(seen[-1][0])
    assert http.get(job["links"]["events"], headers={"Last-Event-ID": last}).status_code == 204
    described = http.get("/openapi.json").json()["paths"]["/jobs/{job_id}/events"]["get"]["responses"]
    assert {"200", "204"} <= described.keys()
    refused(http.get(job["links"]["events"], headers={"Last-Event-ID": "x"}), 400, "bad-header")


def test_a_stream_ends_before_proxies_do(http: httpx.Client, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_routes, "STREAM_SECONDS", 1.0)
    with held(server):
        job = submit(http, "class=0")
        wait(http, job, "in_progress")
        assert [name for _, name, _ in read_events(http, job)] == ["queued", "started"]
        http.delete(job["links"]["self"])


def test_a_crowd_of_readers_makes_place_for_the_last(
    http: httpx.Client, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else they would hold all places of a replica, and nobody could ask for its readiness."""
    readers = server.app.state.services.readers
    monkeypatch.setattr(readers, "limit", 2)
    with held(server), ExitStack() as stack:
        job = submit(http, "class=0")
        wait(http, job, "in_progress")
        answers = [stack.enter_context(http.stream("GET", job["links"]["events"])) for _ in range(4)]
        for answer in answers[:2]:
            assert b"event: started" in b"".join(answer.iter_raw()), "it ended, and a reader resumes it"
        assert len(readers) == 2
        http.delete(job["links"]["self"])
        for answer in answers[2:]:
            assert b"event: cancelled" in b"".join(answer.iter_raw())
    eventually(lambda: not len(readers))


def test_a_job_is_cancelled_then_forgotten(http: httpx.Client, server: Server) -> None:
    cancelled = server.generators.cancelled
    with held(server):
        job = submit(http, "class=0")
        wait(http, job, "in_progress")
        eventually(lambda: server.generators.running == 1)
        answer = http.delete(job["links"]["self"]).json()
        assert (answer["status"], answer["deleted"]) == ("cancelled", False)
        eventually(lambda: server.generators.cancelled == cancelled + 1)
    refused(http.get(f"{job['links']['self']}/content"), 409, "job-without-content")
    assert [name for _, name, _ in read_events(http, job)] == ["queued", "started", "cancelled"]
    assert http.delete(job["links"]["self"]).json()["deleted"] is True
    for path in ("", "/events", "/content"):
        refused(http.get(f"{job['links']['self']}{path}"), 404, "unknown-job")
    refused(http.delete(job["links"]["self"]), 404, "unknown-job")


def test_a_failure_is_in_the_record(http: httpx.Client, server: Server) -> None:
    async def fail() -> None:
        raise RuntimeError("a fault of the generator")

    server.generators.stall = fail
    try:
        job = wait(http, submit(http, "class=0"), "failed")
    finally:
        server.generators.stall = None
    assert job["error"]["code"] == "internal"
    assert job["id"] in job["error"]["detail"]
    broken = submit(http, "class=0&frames=5", {"Content-Type": "image/png"}, content=picture()[:60])
    assert wait(http, broken, "failed")["error"]["code"] == "corrupt-media"


def test_a_busy_service_only_delays_a_job(http: httpx.Client, server: Server) -> None:
    refusals = iter(
        [
            ProblemError("overloaded", "Full.", retry_after_seconds=0.1),
            ProblemError("not-ready", "No.", retry_after_seconds=0.1),
        ]
    )

    async def stall() -> None:
        if (refusal := next(refusals, None)) is not None:
            raise refusal

    server.generators.stall = stall
    try:
        wait(http, submit(http, "class=0"))
    finally:
        server.generators.stall = None


def test_a_repeated_submission_makes_one_job(http: httpx.Client) -> None:
    sent = {"X-Submission": "6f2a"}  # as HAProxy does, also when it sends a request to a second replica
    first = submit(http, "class=1", sent)
    assert submit(http, "class=1", sent)["id"] == first["id"]
    assert first["id"] != submit(http, "class=1", {"X-Submission": "6f2b"})["id"] != submit(http, "class=1")["id"]
    key = {"Idempotency-Key": "5c1f"}
    first = submit(http, "class=0", key)
    assert submit(http, "class=0", key)["id"] == first["id"]
    refused(http.post("/generate?class=1", headers=ASYNC | key), 422, "idempotency-conflict")
    refused(http.post("/generate?class=1", headers=ASYNC | {"Idempotency-Key": "a b"}), 400, "bad-header")
    twice = [*ASYNC.items(), ("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    refused(http.post("/generate?class=1", headers=twice), 400, "bad-header")


def test_pages_of_the_list_end(http: httpx.Client) -> None:
    made = [wait(http, submit(http, "class=0"))["id"] for _ in range(3)]
    page = http.get("/jobs?limit=2").json()
    assert page["has_more"]
    assert [job["id"] for job in page["data"]] == made[:0:-1]
    rest = http.get(f"/jobs?limit=1&after={made[1]}").json()
    assert [job["id"] for job in rest["data"]] == made[:1]
    refused(http.get("/jobs?after=gone"), 404, "unknown-job")
    refused(http.get("/jobs?limit=0"), 422, "invalid-options")
    refused(http.get("/jobs?page=1"), 422, "invalid-options")


def test_other_requests_are_refused_as_ever(http: httpx.Client) -> None:
    refused(http.post("/generate?class=99", headers=ASYNC), 422, "unknown-class")
    refused(http.post("/generate?class=0", headers=ASYNC | {"Accept": "text/css"}), 406, "not-acceptable")
    encoded = http.post("/encode", content=picture(), headers=ASYNC | {"Content-Type": "image/png"})
    assert encoded.status_code == 200, "a preference may be ignored"


def test_a_job_that_would_take_too_long_is_refused(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = [replace(card, step_seconds=10_000.0) for card in server.generators.cards]
    monkeypatch.setattr(server.generators, "cards", slow)
    document = refused(httpx.post(f"{server.url}/generate?class=0", headers=ASYNC, timeout=60), 422, "job-too-long")
    assert document["limit"] == Settings().job_seconds


def test_jobs_take_more_and_survive_a_restart(tmp_path: Path) -> None:
    limits = replace(LIMITS, generated_tokens=16)
    settings = Settings(limits=limits, jobs_folder=tmp_path / "jobs", job_slots=1, job_lease_seconds=1)
    with Server(settings) as server, httpx.Client(base_url=server.url, timeout=60) as http:
        done = wait(http, submit(http, "class=1&seed=5"))
        document = refused(http.post("/generate?class=0&n=2"), 422, "use-async")
        assert "Prefer: respond-async" in document["detail"]
        wait(http, submit(http, "class=0&n=2"))
        server.generators.stall = asyncio.Event().wait  # type: ignore[assignment]
        running, waiting = submit(http, "class=2&seed=6"), submit(http, "class=3&seed=7")
        wait(http, running, "in_progress")
    with Server(settings) as server, httpx.Client(base_url=server.url, timeout=60) as http:
        assert http.get(done["links"]["self"]).json() == done
        for job, query in ((done, "class=1&seed=5"), (running, "class=2&seed=6"), (waiting, "class=3&seed=7")):
            made = http.get(wait(http, job)["links"]["content"]).content
            assert made == http.post(f"/generate?{query}").content


def test_callers_have_their_own(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    made = {name: new_key(name, ["generate"], budget) for name, budget in (("ann", 100), ("bob", None))}
    made["eve"] = new_key("eve", ["encode"], None)
    write_keys(file, [key for _, key in made.values()])
    with Server(Settings(limits=LIMITS, keys=file, ingress_replicas=1)) as server:
        clients = {
            name: httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {secret}"}, timeout=60)
            for name, (secret, _) in made.items()
        }
        ann, bob, eve = clients.values()
        began = time.monotonic()
        job = wait(ann, submit(ann, "class=0&kind=video"))
        assert len(ann.get("/jobs").json()["data"]) == 1
        assert bob.get("/jobs").json()["data"] == []
        for path in ("", "/events", "/content"):
            refused(bob.get(f"{job['links']['self']}{path}"), 404, "unknown-job")
        refused(bob.delete(job["links"]["self"]), 404, "unknown-job")
        refused(eve.delete(job["links"]["self"]), 403, "forbidden")
        refused(eve.post("/generate", headers=ASYNC), 403, "forbidden")
        spent = int(ann.get("/jobs").headers["ratelimit-remaining"])
        size = job["size"]
        refilled = 1 + 100 / 60 * (time.monotonic() - began)
        assert spent <= 100 - VQ.geometry.positions((size["frames"], size["height"], size["width"])) + refilled
        assert ann.delete(job["links"]["self"]).status_code == 200
        for client in clients.values():
            client.close()
