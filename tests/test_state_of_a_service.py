"""Verdicts of the soak and of the kills, on states that are made up."""

from __future__ import annotations

import os
import threading
from collections import Counter
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from benchmarks.chaos.__main__ import differences
from benchmarks.chaos.callers import Call
from benchmarks.chaos.report import Row, table
from benchmarks.service.state import State, look
from benchmarks.soak.memory import Sample, growths

METRICS = 'omnitok_queue_requests{a="b"} 2.0\nomnitok_queue_requests{a="c"} 1.0\nomnitok_other{} 9\n'
STATE = State(Counter(Tokenizer=2), Counter(Tokenizer=100), 4, {}, {"queue_requests": 0.0})


def samples(pid: int, mib: list[float]) -> list[Sample]:
    return [Sample(60.0 * minute, pid, "Ingress", value, 9) for minute, value in enumerate(mib)]


def test_growth_counts_from_the_end_of_the_warm_up() -> None:
    steady, growing = [100.0 + 50 * (minute < 10) for minute in range(60)], [100.0 + minute for minute in range(60)]
    found = list(growths([*samples(1, steady), *samples(2, growing)], 600.0))
    assert [(row.pid, row.mib) for row in found] == [(2, 45.0), (1, 0.0)]


def test_one_large_request_is_not_growth() -> None:
    (row,) = growths(samples(1, [100.0] * 20 + [900.0]), 0.0)
    assert row.mib == 0


def test_processes_that_lived_shortly_are_not_judged() -> None:
    assert list(growths(samples(1, [100.0, 300.0] * 4), 0.0)) == []


@pytest.mark.parametrize(
    ("after", "sentence"),
    [
        (replace(STATE, gauges={"queue_requests": 3.0}), "The gauge queue_requests is 3, not 0."),
        (replace(STATE, processes=Counter(Tokenizer=3)), "There are 3 processes Tokenizer; 2 were before."),
        (replace(STATE, descriptors=Counter(Tokenizer=999)), "Tokenizer has 999 descriptors; 100 were before."),
        (replace(STATE, arenas=5), "5 arenas are mapped; 4 were before."),
    ],
)
def test_what_stays_behind_is_named(after: State, sentence: str) -> None:
    assert list(differences(STATE, STATE)) == []
    assert list(differences(STATE, after)) == [sentence]


def test_failures_are_counted_by_event() -> None:
    rows = [Row("a kill", 1.0, 10, Counter({"lost": 2}), 0.5, 2.0), Row("a kill", 3.0, 20, Counter(), 0.1, 9.0)]
    lines = list(table(rows, [Call(0.0, 1.0, "encode", "lost"), Call(0.0, 9.0, "encode", "")]))
    assert lines[2:] == ["| a kill | 2 | 1.0 / 3.0 | 30 | 2 x lost | 0.5 | 9.0 |", "| all | 2 | | 2 | 1 | | 9.0 |"]


def test_the_state_of_a_process_is_read() -> None:
    class Exporter(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(METRICS.encode())

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Exporter) as server:
        threading.Thread(target=partial(server.serve_forever, 0.01), daemon=True).start()
        state = look(os.getpid(), f"http://127.0.0.1:{server.server_port}/metrics")
        server.shutdown()
    assert state.gauges["queue_requests"] == 3.0
    assert sum(state.processes.values()) >= 1
    assert min(state.descriptors.values()) > 0
    assert {pid for pid, _ in state.resident} >= {os.getpid()}
