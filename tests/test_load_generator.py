"""The load generator against a local server of known delays, stalls and refusals."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks.rows import markdown, read_rows
from benchmarks.service import cpu
from benchmarks.service.__main__ import app
from benchmarks.service.http import parse
from benchmarks.service.load import Load, Run, run_load
from benchmarks.service.mixes import BODIES, KINDS, MIXES, STAMP_DIGITS
from benchmarks.service.plan import open_plan
from benchmarks.service.plot import plot
from benchmarks.service.report import LateError, completions, cpu_table, row, summarize, void_row
from benchmarks.service.rows import Failure
from service.formats.msgpack import unpack
from service.formats.tensors import unpack_tensor

Behaviour = Callable[[float, int], tuple[float, bytes]]  # time since the first request, its number: delay and answer
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"
SHED = b'HTTP/1.1 503 Service Unavailable\r\nRetry-After: 3\r\nContent-Length: 21\r\n\r\n{"code": "overloaded"'
PATIENT = float("inf")  # requests may begin late where a test is not about that
LOAD = Load("http://127.0.0.1:0", "img128", 60.0, 64, 1.5, warm_up=0.0, timeout=5.0)


@contextmanager
def serving(behave: Behaviour) -> Iterator[tuple[str, list[bytes]]]:
    """Run a server in a thread; yield its address, and the bodies that it has seen."""
    bodies: list[bytes] = []
    started: list[float] = []

    class Server(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport, self.received = transport, b""

        def data_received(self, data: bytes) -> None:
            self.received += data
            head, _, body = self.received.partition(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 1)
            if len(body) < length:
                return
            self.received = b""
            started.append(time.perf_counter())
            bodies.append(body)
            delay, answer = behave(time.perf_counter() - started[0], len(bodies) - 1)
            loop.call_later(delay, self.transport.write if answer else lambda _: self.transport.close(), answer)

    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(loop.create_server(Server, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", bodies
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        server.close()
        loop.close()


def test_the_same_seed_gives_the_same_plan() -> None:
    mix = MIXES["mix80/20"]
    one, same, other = (open_plan(mix, 200, 10, seed) for seed in (1, 1, 2))
    assert np.array_equal(one.due, same.due)
    assert np.array_equal(one.kind, same.kind)
    assert not np.array_equal(one.due[:100], other.due[:100])
    assert len(one) == pytest.approx(2000, rel=0.1)
    assert (one.kind == 1).mean() == pytest.approx(0.2, abs=0.05)
    halves = np.concatenate([one.share(0, 2).due, one.share(1, 2).due])
    assert np.array_equal(np.sort(halves), one.due)


def test_bursts_hold_four_fifths_of_the_arrivals() -> None:
    plan = open_plan(MIXES["burst"], 500, 20, 0)
    assert (np.diff(plan.due) >= 0).all()
    assert (plan.due % 1.0 < 0.2).mean() == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("name", KINDS)
def test_requests_of_every_kind_are_whole_and_differ(name: str) -> None:
    templates = KINDS[name].templates("host", ["X-Key: 1"], 0)
    assert len(templates) == BODIES
    first, second = (b"".join(templates[0].stamped(number)) for number in (1, 2))
    assert first != second
    head, _, body = first.partition(b"\r\n\r\n")
    assert b"X-Key: 1" in head
    assert f"Content-Length: {len(body)}".encode() in head
    assert len(templates[0].stamped(7)[1]) == STAMP_DIGITS
    if name.startswith(("img", "clip")):
        assert unpack_tensor(unpack(body, 2**22)["array"], "array").shape[-1] == 3


def test_counts_latencies_and_goodput() -> None:
    def behave(_: float, number: int) -> tuple[float, bytes]:
        return (0.0, SHED) if number % 10 == 0 else (0.3 if number % 10 == 1 else 0.02, OK)

    with serving(behave) as (url, bodies):
        run = run_load(replace(LOAD, url=url, processes=2), os.getpid())
    summary = summarize(run, 0.2, PATIENT)
    sheds = -(-len(bodies) // 10)
    assert summary.requests == len(bodies) == len(set(bodies))
    assert (summary.sheds, summary.answered) == (sheds, len(bodies) - sheds)
    assert (summary.retry_after, summary.without_retry_after) == ((3.0, 3.0, 3.0), 0)
    slow = (len(bodies) + 8) // 10
    assert 0 < summary.goodput * LOAD.seconds <= summary.answered - slow
    assert summary.latency_ms[0] >= 20
    assert summary.latency_ms[2] >= 300
    assert set(run.rows["problem"][run.rows["status"] == 503]) == {b"overloaded"}
    _, answers, refusals = completions(run)
    assert (answers.sum(), refusals.sum()) == (summary.answered, sheds)
    assert "overloaded" not in summary.errors
    shown = row("60/s", run, summary, 0.2)
    assert shown["refused, of them within 200 ms"] == f"{sheds}, {summary.sheds_in_time / sheds:.1%}"
    assert "| 60/s |" in list(markdown([shown]))[-1]
    assert "| all |" in "".join(cpu_table(run))


def test_a_stall_counts_from_the_planned_time(tmp_path) -> None:
    """A client that waits for answers would send one request in the stall, and see one slow answer."""

    held: list[int] = []
    over = 0.0

    def behave(now: float, number: int) -> tuple[float, bytes]:
        nonlocal over
        if number == 20:
            over = now + 0.6
        if now >= over:
            return 0.0, OK
        held.append(number)
        return over - now, OK

    with serving(behave) as (url, _):
        run = run_load(replace(LOAD, url=url))
    slow = run.rows["done"] - run.rows["due"] > 0.1
    assert slow.mean() > 0.2  # half a second of one and a half
    assert summarize(run, 0.1, PATIENT).goodput < 0.8 * LOAD.rate
    held, over = [], 0.0
    with serving(behave) as (url, _):
        run_load(replace(LOAD, url=url, rate=None, connections=1))
    assert held == [20]
    plot(run, 0.1, tmp_path / "run.png")
    assert (tmp_path / "run.png").stat().st_size > 1000


def test_a_generator_that_cannot_keep_up_refuses_to_report() -> None:
    with serving(lambda *_: (0.1, OK)) as (url, _):
        run = run_load(replace(LOAD, url=url, connections=1, timeout=0.3))
    with pytest.raises(LateError, match=r"began more than 5\.0 ms after .* never began") as late:
        summarize(run, 0.1)
    assert "It had 1 requests in flight on 1 connections. Add connections" in str(late.value)
    with pytest.raises(LateError, match="add processes"):
        summarize(replace(run, load=replace(run.load, connections=2)), 0.1)
    patient = summarize(run, 0.1, PATIENT)
    assert patient.errors["unsent"] > 10
    shown = row("60/s", run, patient, 0.1)
    assert void_row("60/s", run, late.value, shown).keys() == shown.keys()


def test_overload_is_a_multiple_of_the_peak(tmp_path: Path) -> None:
    with serving(lambda *_: (0.05, OK)) as (url, bodies):
        options = {"url": url, "mix": "img128", "of-peak": 2, "connections": 4, "seconds": 0.5, "warm-up": 0}
        options |= {"late-ms": 60_000, "pid": os.getpid(), "out": tmp_path}
        done = CliRunner().invoke(app, [text for name, value in options.items() for text in (f"--{name}", str(value))])
    assert done.exit_code == 0, done.output
    closed, overload = sorted(tmp_path.glob("img128*.json"), key=lambda file: "connections" not in file.name)
    peak, planned = json.loads(closed.read_text())["summary"]["rate"], json.loads(overload.read_text())["load"]["rate"]
    assert planned == pytest.approx(2 * peak, rel=1e-3)
    assert [found["load"][:15] for found in read_rows(tmp_path / "rows.json")] == ["4 connections", "2 times the pea"]
    assert len(bodies) > 0
    refused = CliRunner().invoke(app, ["--rate", "5", "--of-peak", "2"])
    assert refused.exit_code != 0


def test_a_closed_loop_ends_though_answers_are_slow() -> None:
    with serving(lambda *_: (0.2, OK)) as (url, bodies):
        run = run_load(replace(LOAD, url=url, rate=None, connections=4, seconds=0.5))
    assert 4 <= len(run.rows) == len(bodies) <= 12
    assert summarize(run, 1.0).answered == len(bodies)


def test_failures_have_their_reasons() -> None:
    answers = [b"", b"nonsense\r\n\r\n", OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")]

    def behave(_: float, number: int) -> tuple[float, bytes]:
        return (9.0, OK) if number % 4 == 3 else (0.0, answers[number % 4])

    with serving(behave) as (url, _):
        run = run_load(replace(LOAD, url=url, seconds=0.5, timeout=2.0))
    failures = set(run.rows["failure"])
    assert failures == {Failure.NONE, Failure.LOST, Failure.MALFORMED, Failure.TIMEOUT}
    assert set(summarize(run, 1.0, PATIENT).errors) == {"lost", "malformed", "timeout"}
    with socket.socket() as deaf:  # it has a port and does not listen
        deaf.bind(("127.0.0.1", 0))
        nobody: Run = run_load(replace(LOAD, url=f"http://127.0.0.1:{deaf.getsockname()[1]}", seconds=0.2))
    assert set(nobody.rows["failure"]) == {Failure.CONNECT}


def test_answers_are_whole_or_not_there() -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    for whole in (OK, SHED, chunked, b"HTTP/1.1 100 Continue\r\n\r\n" + OK):
        assert all(parse(bytearray(whole[:length])) is None for length in range(len(whole)))
        assert parse(bytearray(whole)).status in (200, 503)


def test_the_service_is_found_by_its_port() -> None:
    with serving(lambda *_: (0.0, OK)) as (url, _):
        found = cpu.find_service(int(url.rpartition(":")[2]))
    assert os.getpid() in cpu.snapshot(found)
    with pytest.raises(ProcessLookupError, match="--pid"):
        cpu.find_service(1)
