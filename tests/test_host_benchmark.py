"""The benchmark of a GPU host on small commands in place of services and loads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner
from waiting import eventually

from benchmarks.host import __main__ as command
from benchmarks.host import runner as host
from benchmarks.host.machine import Split, split_cpus, write_bundles
from benchmarks.host.steps import ENCODING, GENERATING, PARTS, SHORT_QUEUE, Place, Serving, Step, steps
from benchmarks.rows import markdown, write_rows
from benchmarks.service.process import ROOT, free_port, free_ports, kill_tree, python_path
from benchmarks.service.profile import functions
from model.bundle import load_bundle, load_generator

SPLIT = Split(frozenset({0}), frozenset({0}))
SERVER = """
import os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
class Ready(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(str(os.getpid()).encode())
HTTPServer(("127.0.0.1", int(sys.argv[1])), Ready).serve_forever()
"""
KILL = """
import os, signal, sys, time, urllib.request
pid = int(urllib.request.urlopen({url!r}).read())
os.kill(pid, signal.SIGKILL)
while "State:\\tZ" not in open(f"/proc/{{pid}}/status").read(): time.sleep(0.01)  # both have one CPU
"""


def place(out: Path, gpus: int = 0) -> Place:
    return Place(out, f"http://127.0.0.1:{free_port()}", "debug", gpus, SPLIT, 1.0)


def step(name: str, code: str, seconds: float = 1.0, serving: Serving | None = None) -> Step:
    return Step("img", name, ("-c", code), seconds, serving)


def saving(path: Path, **row: str) -> str:
    return f"from benchmarks.rows import *; write_rows(Path({str(path)!r}), [{row!r}])"


def runner(at: Place, chosen: list[Step], seconds: float = 300.0) -> host.Runner:
    return host.Runner(at, chosen, free_ports(), time.monotonic() + seconds, "a machine")


def states(ran: host.Runner) -> dict[str, str]:
    return {name: outcome.state for name, outcome in ran.outcomes.items()}


@pytest.mark.parametrize(
    ("siblings", "service", "load"),
    [
        ({}, set(range(12)), {12, 13, 14, 15}),
        ({cpu: cpu // 2 * 2 for cpu in range(16)}, set(range(12)), {12, 13, 14, 15}),
        ({cpu: cpu % 8 for cpu in range(16)}, {0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13}, {6, 7, 14, 15}),
    ],
)
def test_threads_of_a_core_work_for_one_side(siblings: dict[int, int], service: set[int], load: set[int]) -> None:
    split = split_cpus(range(16), siblings)
    assert (split.service, split.load) == (service, load)
    assert split.ingress_replicas == 9


def test_few_cpus_are_split_too() -> None:
    assert split_cpus([3], {}) == Split(frozenset({3}), frozenset({3}))
    assert split_cpus([0, 1], {0: 0, 1: 0}) == Split(frozenset({0}), frozenset({1}))
    assert split_cpus(range(6), {cpu: cpu // 2 * 2 for cpu in range(6)}).load == {4, 5}


@pytest.mark.parametrize("gpus", [0, 1, 2])
def test_steps_cover_all_parts_and_those_of_a_service_follow_each_other(tmp_path: Path, gpus: int) -> None:
    found = list(steps(place(tmp_path, gpus)))
    assert {one.part for one in found} == set(PARTS) - ({"ranks"} if gpus < 2 else set())
    assert len({one.name for one in found}) == len(found)
    order = [one.serving for one in found]
    assert [serving for at, serving in enumerate(order) if at == 0 or serving != order[at - 1]] == [
        *dict.fromkeys(order)
    ]
    assert sum(one.name.startswith("tokenize-ray") for one in found) == max(1, gpus)


def test_a_service_has_a_replica_for_each_gpu_and_the_settings_that_are_given(tmp_path: Path) -> None:
    at = Place(tmp_path, "", "published", 2, SPLIT, 1.0, {"media_workers": "1", "dtype": "float32"})
    variables = at.variables(GENERATING)
    assert variables["OMNITOK_TOKENIZER_REPLICAS"] == "2"
    assert (variables["OMNITOK_MEDIA_WORKERS"], variables["OMNITOK_DTYPE"]) == ("1", "float32")
    assert [Path(path).name for path in json.loads(variables["OMNITOK_BUNDLES"])] == ["random", "streaming"]
    assert json.loads(at.variables(ENCODING)["OMNITOK_GENERATORS"]) == []


def test_a_queue_that_is_given_takes_the_place_of_both(tmp_path: Path) -> None:
    overloads = [one for one in steps(place(tmp_path)) if one.part == "overload"]
    assert [one.serving for one in overloads] == [ENCODING, ENCODING, SHORT_QUEUE, SHORT_QUEUE]
    at = Place(tmp_path, "", "published", 1, SPLIT, 1.0, {"max_queue_seconds": "0.03"})
    overloads = [one for one in steps(at) if one.part in ("overload", "streams")]
    assert {one.serving for one in overloads} == {ENCODING}
    assert [one.name for one in overloads] == ["streams", "overload-img256-0.03s", "overload-jpeg256-0.03s"]
    assert at.variables(ENCODING)["OMNITOK_MAX_QUEUE_SECONDS"] == "0.03"


def test_a_service_finds_packages_where_this_process_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    assert python_path()["PYTHONPATH"].split(os.pathsep) == [str(ROOT), "/somewhere"]
    monkeypatch.delenv("PYTHONPATH")
    assert python_path() == {"PYTHONPATH": str(ROOT)}


def test_bundles_are_written_once(tmp_path: Path) -> None:
    for _ in range(2):
        write_bundles(tmp_path, "debug", generator=True)
    assert load_bundle(tmp_path / "streaming").config.streams
    assert load_generator(tmp_path / "generator").tokenizer_hash == load_bundle(tmp_path / "random").hash


def test_one_step_that_fails_stops_no_other_and_a_second_call_does_what_is_missing(tmp_path: Path) -> None:
    at, switch = place(tmp_path), tmp_path / "switch"
    chosen = [
        step("breaks", f"import sys, pathlib; print('why'); sys.exit(not pathlib.Path({str(switch)!r}).exists())"),
        step("works", saving(at.rows("works"), figure="7"), seconds=5.0),
        step("void", saving(at.rows("void"), errors="void: late") + "; raise SystemExit(2)", seconds=5.0),
        step("too long", "", seconds=1000.0),
    ]
    ran = runner(at, chosen)
    assert not ran.run(PARTS)
    assert states(ran) == {"breaks": "failed", "works": "done", "void": "done", "too long": "not begun"}
    assert "why" in ran.outcomes["breaks"].logs
    report = (tmp_path / "report.md").read_text()
    assert "| works | 7 |" in report
    assert "- breaks: failed, status 1" in report
    written = at.rows("works").stat().st_mtime_ns
    switch.touch()
    again = runner(at, chosen[:3])
    assert again.run(PARTS)
    assert states(again) == dict.fromkeys(("breaks", "works", "void"), "done")
    assert at.rows("works").stat().st_mtime_ns == written
    assert (tmp_path / "report.md").read_text().endswith("All is done.\n")


def test_a_step_that_broke_after_a_void_run_is_not_done(tmp_path: Path) -> None:
    at = place(tmp_path)
    ran = runner(at, [step("broke", saving(at.rows("broke"), errors="void: late") + "; raise SystemExit(1)", 5.0)])
    assert not ran.run(PARTS)
    assert states(ran) == {"broke": "failed"}


def test_a_step_for_which_too_little_time_is_left_keeps_what_an_earlier_call_found(tmp_path: Path) -> None:
    at = place(tmp_path)
    broken = step("breaks", saving(at.rows("breaks"), figure="7") + "; raise SystemExit('why')", 5.0)
    runner(at, [broken]).run(PARTS)
    late = runner(at, [broken], seconds=host.STOP_SECONDS)
    assert not late.run(PARTS)
    assert states(late) == {"breaks": "not begun"}
    assert "why" in json.loads((tmp_path / "breaks" / "outcome.json").read_text())["logs"]
    assert json.loads(at.rows("breaks").read_text()) == [{"figure": "7"}]


def test_a_service_that_starts_late_leaves_the_rows_of_an_earlier_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = place(tmp_path)
    at.rows("load").parent.mkdir()
    write_rows(at.rows("load"), [{"figure": "7"}])
    ran = runner(at, [step("load", "", 5.0, ENCODING)])

    def need(serving: Serving | None) -> None:
        monkeypatch.setattr(ran, "_deadline", time.monotonic())

    monkeypatch.setattr(ran, "_need", need)
    assert not ran.run(PARTS)
    assert states(ran) == {"load": "not begun"}
    assert json.loads(at.rows("load").read_text()) == [{"figure": "7"}]


def has_ended(pid: str) -> bool:
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_a_step_that_hangs_is_ended_with_what_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "LIMIT_SECONDS", 4.0)
    child = tmp_path / "child"
    code = (
        "import pathlib, subprocess, sys;"
        "one = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(900)']);"
        f"pathlib.Path({str(child)!r}).write_text(str(one.pid)); one.wait()"
    )
    ran = runner(place(tmp_path), [step("hangs", code)])
    assert not ran.run(PARTS)
    assert states(ran) == {"hangs": "out of time"}
    if child.exists() and (pid := child.read_text()):  # a busy machine starts it late
        eventually(lambda: has_ended(pid))


def test_steps_share_a_service_and_one_that_died_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at, started = place(tmp_path), []

    def serve(log: Path, variables: dict[str, str], cpus: object) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen([sys.executable, "-c", SERVER, at.url.rpartition(":")[2]]))
        return started[-1]

    monkeypatch.setattr(host, "serve", serve)
    codes = {"first": "", "second": KILL.format(url=at.url), "third": "", "fourth": ""}
    ran = runner(at, [step(name, code, 20.0, ENCODING) for name, code in codes.items()])
    assert ran.run(PARTS)
    assert len(started) == 2
    assert all(process.poll() is not None for process in started)
    starts = json.loads((tmp_path / "starts.json").read_text())
    assert [row["service"] for row in starts] == ["encoding", "encoding"]


def test_a_service_that_does_not_start_fails_its_steps_once_and_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []

    def serve(log: Path, variables: dict[str, str], cpus: object) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"]))
        log.write_text('{"event": "request"}\nno GPU\n')
        return started[-1]

    monkeypatch.setattr(host, "serve", serve)
    chosen = [step("one", "", 5.0, ENCODING), step("two", "", 5.0, ENCODING), step("alone", "", 5.0)]
    ran = runner(place(tmp_path), chosen)
    assert not ran.run(PARTS)
    assert states(ran) == {"one": "failed", "two": "failed", "alone": "done"}
    assert ran.outcomes["two"].logs.endswith("status 3.\nno GPU")
    assert len(started) == 1


@pytest.mark.parametrize("wrong", [["sounds"], ["--config", "paper"], ["--set", "media_workers"], ["--set", "a=1"]])
def test_what_is_not_known_is_refused(wrong: list[str], tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(command.main)
    result = CliRunner().invoke(app, [*wrong, "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert wrong[-1] in result.output
    assert not (tmp_path / "out").exists()


def test_a_table_begins_anew_where_columns_change(tmp_path: Path) -> None:
    lines = list(markdown([{"a": "1"}, {"a": "2"}, {"b": "3"}]))
    assert lines == ["| a |", "|---|", "| 1 |", "| 2 |", "", "| b |", "|---|", "| 3 |"]
    write_rows(tmp_path / "rows.json", [{"a": "é"}])
    assert "é" in (tmp_path / "rows.json").read_text()


def test_functions_are_ranked_by_their_own_time() -> None:
    rows = list(
        functions(
            "Ingress",
            "main (a.py);read (b.py) 3\nmain (a.py) 1\nmain (a.py);read (b.py) 2\nWorker.main_loop (worker.py) 9\n",
        )
    )
    assert [row["own time"] for row in rows] == ["83.3%", "16.7%"]
    assert rows[0]["function"] == "`read (b.py)`"


def test_only_own_processes_are_ended() -> None:
    one, other = (subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) for _ in range(2))
    kill_tree(one.pid)
    assert one.wait() != 0
    assert other.poll() is None
    other.communicate(os.linesep.encode())


def test_a_folder_has_the_results_of_one_machine_with_one_set_of_options(tmp_path: Path) -> None:
    path = tmp_path / "options.json"
    for _ in range(2):
        command._check_options(path, {"config": "debug", "gpus": 1})
    with pytest.raises(typer.BadParameter, match=r"holds results with gpus 1\. Choose another folder\."):
        command._check_options(path, {"config": "debug", "gpus": 2})


def test_ranks_on_one_gpu_are_refused(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(command.main)
    result = CliRunner().invoke(app, ["ranks", "--gpus", "1", "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "two GPUs" in result.output
