"""`python -m tools.demo_run.check`: slow and damaged packs, errors, a killed host, with jobs that only wait."""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).parents[2]
PLAN = '''

def plan(gpus: int) -> tuple[Job, ...]:
    """Return jobs that end when a file says so."""
    wait = "{python} -m training "
    return (
        Job("first", wait + "first"),
        Job("broken", "no-such-program"),
        Job("packed", wait + "packed", needs=("things",), after=("first",)),
        Job("long", wait + "long --seconds {seconds}", (0, 1), seconds=7, out="runs/long"),
        Job("last", wait + "last", needs=("long", "packed")),
    )
'''
# A job with a process in a group of its own, as ranks are; its run can be resumed.
JOB = """
import os, subprocess, sys, time
from pathlib import Path

name = sys.argv[1]
Path("runs", name).mkdir(parents=True, exist_ok=True)
Path("runs", name, "run.json").touch()
rank = subprocess.Popen(["sleep", "1000"], start_new_session=True)
with Path("starts").open("a") as file:
    print(os.getpid(), rank.pid, *sys.argv[1:], file=file)
while not Path(f"go-{name}").exists():
    time.sleep(0.05)
rank.kill()
"""


class Desk:
    """A tree with waiting jobs, and calls from it.

    Args:
        folder: of everything.
    """

    def __init__(self, folder: Path) -> None:
        self.tree, self.work = folder / "tree", folder / "work"
        shutil.copytree(ROOT / "tools", self.tree / "tools")
        for name in ("kernels", "media", "model", "training"):
            (self.tree / name).mkdir()
        (self.tree / "training" / "__main__.py").write_text(JOB)
        with (self.tree / "tools/demo_run/plan.py").open("a") as file:
            file.write(PLAN)
        self.environment = os.environ | {
            "DEMO_RUN_WORK": str(self.work), "OUT": str(folder / "out"),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }  # fmt: skip

    def call(self, *arguments: str, limit: float = 60, code: int = 0, meanwhile: int = 0) -> str:
        """Make a call, which ends with this status within so many seconds; return what it says.

        Args:
            arguments: of the call.
            limit: in seconds.
            code: its status.
            meanwhile: signal to the host while the call waits.
        """
        process = subprocess.Popen(
            ["bash", "tools/demo_run/call.sh", *arguments], cwd=self.tree, env=self.environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            if meanwhile:
                self.until(lambda: any(b"demo_run.collect" in line for line in command_lines(process.pid)))
                os.kill(self.pid, meanwhile)
            said = process.communicate(timeout=limit)[0]
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        assert process.returncode == code, f"status {process.returncode}, not {code}: {said}"
        return said

    def put(self, number: int, data: bytes, name: str = "") -> str:
        """Let the next call bring a pack; return its name."""
        name = name or f"{hashlib.sha256(data).hexdigest()[:16]}.tar"
        shutil.rmtree(self.tree / "build", ignore_errors=True)
        path = self.tree / f"build/demo_run/{number:02}" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
        return name

    @property
    def pid(self) -> int:
        """Return the host's process."""
        return int((self.work / "pid").read_text())

    @property
    def jobs(self) -> dict[str, str]:
        """Return the jobs' states."""
        return {name: job["status"] for name, job in self.status["jobs"].items()}

    @property
    def status(self) -> dict[str, Any]:
        """Return what the host wrote last."""
        status: dict[str, Any] = json.loads((self.work / "status.json").read_text())
        return status

    @property
    def log(self) -> str:
        """Return the log."""
        return (self.work / "log").read_text()

    def starts(self, name: str = "") -> list[list[str]]:
        """Return processes and arguments of the starts of a job, or of all."""
        path = self.work / "starts"
        lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        return [line for line in lines if name in ("", line[2])]

    def until(self, *facts: Callable[[], bool]) -> None:
        """Wait until all these are so."""
        begun = time.monotonic()
        while not all(fact() for fact in facts):
            assert time.monotonic() - begun < 30, f"{self.jobs}\n{self.log}"
            time.sleep(0.1)


def is_there(pid: str | int) -> bool:
    """Return whether a process is there that has not ended."""
    path = Path(f"/proc/{pid}/cmdline")
    return path.exists() and bool(path.read_bytes())


def command_lines(parent: int) -> list[bytes]:
    """Return the command lines of the children of a process."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [Path(f"/proc/{child}/cmdline").read_bytes() for child in children if is_there(child)]


def pack(number: int, groups: str, size: int = 1 << 20) -> bytes:
    """Return a pack with a file in an archive of its own, and its mark."""
    inner = archive({f"unpacked/{number}": os.urandom(size)})
    return archive({f"things-{number}.tar.xz": lzma.compress(inner), f"whole/{number:02}": groups.encode()})


def archive(files: dict[str, bytes]) -> bytes:
    """Return files by name as `.tar`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def copy_slowly(data: bytes, path: Path) -> None:
    """Write a file in two seconds, four turns of the host."""
    for part in range(20):
        with path.open("ab") as file:
            file.write(data[part * len(data) // 20 : (part + 1) * len(data) // 20])
        time.sleep(0.1)


def check_packs(desk: Desk) -> None:
    """A host takes whole packs alone, however slowly they come, and lives through damaged ones."""
    desk.work.mkdir()
    (desk.work / "go-first").touch()
    desk.put(1, pack(1, ""))
    desk.call("0", "--end", "900", "--gpus", "1", "--small")
    host = desk.pid
    desk.until(lambda: desk.jobs["first"] == "done")
    # names that are no packs, and one that grows under a hidden name, as a careless copy has it
    packs, data = desk.work / "packs", pack(2, "things")
    (packs / "notes.tar").write_bytes(b"notes")
    hidden = packs / f".{'0' * 16}.tar"
    copy_slowly(data, hidden)
    assert (packs / "notes.tar").exists()
    assert hidden.stat().st_size == len(data)
    hidden.unlink()
    # a pack that is broken on its way is brought again, by a copy that takes its time
    name = desk.put(2, data)
    desk.put(2, data[: len(data) // 2], name)
    desk.call("0")
    desk.until(lambda: f"pack {name} is damaged" in desk.log)
    assert not (desk.work / "taken" / name).exists()
    assert desk.jobs["packed"] == "waiting"
    incoming = desk.work / "incoming" / name
    copy_slowly(data, incoming)
    assert desk.jobs["packed"] == "waiting"
    incoming.rename(packs / name)
    desk.until(lambda: desk.jobs["packed"] == "running", lambda: (desk.work / "taken" / name).exists())
    assert (desk.work / "unpacked/2").stat().st_size == 1 << 20
    assert desk.pid == host == desk.status["pid"]
    assert is_there(host)


def check_errors(desk: Desk) -> None:
    """A job that cannot start fails alone, and an error in each turn ends nothing."""
    desk.until(lambda: desk.jobs["broken"] == "failed")
    assert "no-such-program" in desk.log
    assert "Traceback" in desk.log
    block = desk.work / "status.tmp"
    while not block.is_dir():  # the host may be writing it
        block.unlink(missing_ok=True)
        try:
            block.mkdir()
        except FileExistsError:
            continue
    desk.until(lambda: "IsADirectoryError" in desk.log)
    block.rmdir()
    before = desk.status["clock"]
    desk.until(lambda: desk.status["clock"] > before)
    assert is_there(desk.pid)


def check_killed(desk: Desk) -> None:
    """A call says at once that the host was killed; the next one goes on."""
    desk.until(lambda: bool(desk.starts("long")))
    desk.call("0")  # the failure of `broken` is told
    clock, (first,) = (desk.work / "clock").read_text(), desk.starts("long")
    said = desk.call("1000", limit=5, code=3, meanwhile=signal.SIGKILL)
    assert "THE HOST IS GONE" in said, said
    assert is_there(first[0])
    assert is_there(first[1])
    desk.call("0")
    desk.until(lambda: len(desk.starts("long")) == 2)
    assert not is_there(first[0])
    assert not is_there(first[1])
    again = desk.starts("long")[1]
    assert again[3:] == [*first[3:], "--resume"], (first, again)
    assert (desk.work / "clock").read_text() == clock
    assert len(desk.starts("first")) == 1
    assert desk.jobs["first"] == "done"
    assert desk.jobs["broken"] == "failed"
    assert len(list((desk.work / "taken").iterdir())) == 2
    assert not list((desk.work / "packs").glob("[0-9a-f]*.tar"))


def check_silent(desk: Desk) -> None:
    """A host that says nothing for long is told, ended, and followed by another."""
    desk.until(lambda: len(desk.starts("packed")) == 2)
    silent = desk.pid
    said = desk.call("1000", limit=30, code=3, meanwhile=signal.SIGSTOP)
    assert "SILENT" in said, said
    desk.call("0")
    assert not is_there(silent)
    desk.until(lambda: len(desk.starts("packed")) == 3)


def check_hopeless(desk: Desk) -> None:
    """Calls with a host that cannot start return soon; a mended one ends the run."""
    code = desk.tree / "tools/demo_run/host.py"
    whole = code.read_text()
    code.write_text("raise SystemExit('this host is broken')\n")
    os.kill(desk.pid, signal.SIGKILL)
    for _ in range(3):
        begun = time.monotonic()
        assert "this host is broken" in desk.call("1000", limit=5, code=3)
        print(f"a call with a host that cannot start: {time.monotonic() - begun:.1f} s")
    code.write_text(whole)
    for name in ("long", "packed", "last"):
        (desk.work / f"go-{name}").touch()
    said = desk.call("1000")
    assert desk.status["ended"]
    assert "last done" in said, said
    assert desk.jobs == dict.fromkeys(("first", "packed", "long", "last"), "done") | {"broken": "failed"}
    desk.call("1000", limit=5)


def main() -> None:
    """Check all, one after the other, on one run."""
    with TemporaryDirectory() as folder:
        desk = Desk(Path(folder))
        try:
            for check in (check_packs, check_errors, check_killed, check_silent, check_hopeless):
                check(desk)
                print(f"{check.__name__}: {check.__doc__}", flush=True)
        finally:
            for number in [desk.pid, *(int(number) for line in desk.starts() for number in line[:2])]:
                if is_there(number):
                    os.kill(number, signal.SIGKILL)


if __name__ == "__main__":
    main()
