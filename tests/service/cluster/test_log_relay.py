"""Log lines on their way from several processes to one output, which may be slow or gone."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from waiting import eventually

from service.api.log import LINE_BYTES, LineWriter
from service.cluster.log_relay import log_relay


def test_lines_of_several_writers_arrive_whole(tmp_path: Path) -> None:
    output = tmp_path / "output"
    with output.open("wb") as file, log_relay(tmp_path, file.fileno()) as pipe:
        writers = [LineWriter(pipe, f"replica-{number}") for number in range(4)]

        def write(writer: LineWriter) -> None:
            for number in range(500):
                writer.write(20, "request", {"number": number, "padding": "x" * (number % 1000)})

        threads = [threading.Thread(target=write, args=(writer,)) for writer in writers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        ends = 0
        for number, writer in enumerate(writers):  # the next line that arrives counts those that were lost
            while f'"end", "replica": "replica-{number}"' not in output.read_text():
                writer.write(20, "end", {"number": 500})
                ends += 1
                time.sleep(0.02)

        def arrived() -> list[dict[str, Any]]:
            return [json.loads(line) for line in output.read_text().splitlines(keepends=True) if line.endswith("\n")]

        eventually(lambda: len(arrived()) + sum(line.get("lines_lost", 0) for line in arrived()) == 2000 + ends)
        lines = arrived()
    for number in range(4):
        mine = [line["number"] for line in lines if line["replica"] == f"replica-{number}"]
        assert mine == sorted(mine)


def test_a_reader_that_stands_still_costs_lines_and_no_time(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    with log_relay(tmp_path, writing) as pipe:
        writer = LineWriter(pipe)
        for number in range(2000):
            writer.write(20, "request", {"number": number, "padding": "x" * 2000})
        text = b""
        while b"lines_lost" not in text:  # the relay empties its pipe meanwhile
            writer.write(20, "request", {})
            text += os.read(reading, 2**20)
        os.close(reading)
        writer.write(20, "request", {})


@pytest.mark.parametrize("lost", ["reader", "disk"])
def test_a_console_goes_on_without_its_output(lost: str) -> None:
    program = (
        "import sys; from service.cluster.log_relay import OptionalConsole; console = OptionalConsole()\n"
        "for line in ('draining', 'stopped'): console.print(line)\n"
        "sys.exit(7)"
    )
    if lost == "disk":
        writing = os.open("/dev/full", os.O_WRONLY)
    else:
        reading, writing = os.pipe()
        os.close(reading)
    done = subprocess.run([sys.executable, "-c", program], stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (7, b"")


def test_of_a_long_traceback_the_end_is_kept(tmp_path: Path) -> None:
    def fail(depth: int) -> None:
        if depth:
            fail(depth - 1)
        raise RuntimeError('the "cause"\n' * 100)

    writer = LineWriter(tmp_path / "log")
    try:
        fail(50)
    except RuntimeError as error:
        writer.write(40, "internal", {"request_id": "a"}, error)
    text = (tmp_path / "log").read_text()
    line = json.loads(text)
    assert len(text) <= LINE_BYTES
    assert (line["level"], line["event"], line["request_id"]) == ("error", "internal", "a")
    assert line["traceback"].endswith('the "cause"\n\n')


async def test_lines_of_a_loop_gather_and_arrive_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces: list[bytes] = []
    write = os.write

    def note(file: int, data: bytes) -> int:
        if b'"request"' in data:  # other threads of this process write too
            pieces.append(data)
        return write(file, data)

    monkeypatch.setattr(os, "write", note)
    writer = LineWriter(tmp_path / "log")
    for number in range(100):
        writer.write(20, "request", {"number": number})
    assert not pieces, "a system call a line"
    while not pieces:
        await asyncio.sleep(0.01)
    assert [json.loads(line)["number"] for line in (tmp_path / "log").read_text().splitlines()] == list(range(100))
    assert len(pieces) < 10
    assert max(map(len, pieces)) <= LINE_BYTES
    writer.write(20, "request", {"number": 100})
    writer.close()
    assert (tmp_path / "log").read_text().endswith('"number": 100}\n')
