"""The host's part: takes packs as they arrive and runs the plan, in a process that outlives the calls.

`python -m tools.demo_run.host WORK --end 1440` runs until its clock shows `--end`; `WORK/status.json` says where it is.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import io
import json
import math
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tools.demo_run.life import read_status
from tools.demo_run.plan import Job, plan

ENDED = ("done", "failed", "skipped")
LAST_CALL_S = 25  # before the end, when training is told to write its checkpoint and bundle
MOST_FAILURES = 2  # of a job
PACK = re.compile(r"[0-9a-f]{16}\.tar")
SMALL = "--scale 0.05 --workers 2"
MARK = "DEMO_RUN_JOB"  # in the environment of every process of a job


@dataclass
class State:
    """A job on its way: waiting, running, done, failed or skipped.

    Args:
        starts, failures: how often it was started, and failed by itself; the end of the host is no failure of its jobs.
        seconds: of training, which a run that is resumed keeps.
        stopped: whether its time was up.
    """

    job: Job
    status: str = "waiting"
    starts: int = 0
    failures: int = 0
    seconds: float = 0
    begun: float = 0
    stopped: bool = False
    process: subprocess.Popen[bytes] | None = None


class Host:
    """The run; it goes on where an earlier process of it was killed.

    Args:
        work: folder of everything.
        end: of the host's clock.
        small: whether it is a rehearsal on a CPU.
        gpus: of the machine; counted if None.
    """

    def __init__(self, work: Path, end: float, small: bool = False, gpus: int | None = None) -> None:
        self.work, self.end, self.small = work, end, small
        before = read_status(work)
        self.gpus = gpus or before.get("gpus") or 0
        self.jobs: dict[str, State] = {}
        self.groups: set[str] = set()
        self.ended = False
        self.spoken = 0.0
        self.errors: set[str] = set()
        clock = work / "clock"
        if not clock.exists():
            clock.write_text(str(time.time()))
        self.zero = float(clock.read_text())
        for name in ("logs", "packs", "taken", "whole"):
            (work / name).mkdir(exist_ok=True)
        if not self.gpus:
            self.gpus = self.count_gpus()
        self.jobs = {job.name: State(job) for job in plan(self.gpus)}
        self.take_over(before.get("jobs", {}))

    def count_gpus(self) -> int:
        """Return the number of GPUs of the plan; it takes seconds to load torch, of which this process has no need."""
        command = [sys.executable, "-c", "import torch; print(torch.cuda.device_count())"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            while process.poll() is None:
                self.write_status()
                time.sleep(0.2)
            assert process.stdout is not None
            return min(2, max(1, int(process.stdout.read())))

    def take_over(self, before: dict[str, dict[str, Any]]) -> None:
        """Go on from the status that an earlier host left: what is done is done, what ran is ended and waits again."""
        for name, one in before.items():
            if name not in self.jobs:
                continue
            state = self.jobs[name]
            state.status, state.starts, state.failures = one["status"], one["starts"], one["failures"]
            state.seconds = one["seconds"]
            if state.status not in ENDED:
                end_processes(self.mark(state.job), one["pid"])
                if state.status == "running":
                    self.say(f"{name} ran when the host was ended: it waits again")
                state.status = "waiting"

    def mark(self, job: Job) -> str:
        """Return what all processes of a job have in their environment."""
        return f"{self.work}/{job.name}"

    def now(self) -> float:
        """Return the host's clock."""
        return time.time() - self.zero

    def say(self, text: str) -> None:
        """Write a line of the log."""
        with (self.work / "log").open("a") as file:
            file.write(f"{self.now():7.1f} {text}\n")

    def run(self) -> None:
        """Run the plan to its end, whatever fails in between."""
        while self.now() < self.end and any(state.status not in ENDED for state in self.jobs.values()):
            self.attempt(self.take_packs)
            for state in self.jobs.values():
                self.attempt(self.advance, state)
            self.attempt(self.write_status)
            time.sleep(0.5)
        for state in self.jobs.values():
            if state.process is not None and state.status == "running":
                end_processes(self.mark(state.job), state.process.pid)
                state.status = "failed"
        self.ended = True
        self.attempt(self.write_status)
        self.say("end")

    def attempt(self, step: Callable[..., None], *given: State) -> None:
        """Do a step of a turn; an error goes to the log, once where each turn has it."""
        try:
            step(*given)
        except Exception:
            error = traceback.format_exc()
            with suppress(OSError):  # a full disk
                if error not in self.errors:
                    self.say(error)
                self.errors.add(error)

    def take_packs(self) -> None:
        """Unpack a pack that has arrived; a group is there once its last pack and all before are."""
        if arrived := sorted(path for path in (self.work / "packs").iterdir() if PACK.fullmatch(path.name)):
            self.take_pack(arrived[0])  # jobs may start before the next one
        numbers = {int(marker.name) for marker in (self.work / "whole").iterdir()}
        for number in numbers:
            if numbers.issuperset(range(1, number + 1)):
                self.groups |= set((self.work / "whole" / f"{number:02}").read_text().split())

    def take_pack(self, path: Path) -> None:
        """Unpack a pack and note its name, so that no call brings it again, unless it is damaged."""
        try:
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest()[:16] != path.stem:
                raise ValueError("its hash is another")
            self.unpack(io.BytesIO(data))
            (self.work / "taken" / path.name).touch()
            self.say(f"unpacked {path.name}: {len(data) / 2**20:.1f} MiB")
        except Exception as error:  # a damaged one fails in many ways
            (self.work / "taken" / path.name).unlink(missing_ok=True)
            self.say(f"pack {path.name} is damaged, send it again: {error!r}")
        path.unlink(missing_ok=True)

    def unpack(self, data: BinaryIO) -> None:
        """Unpack an archive and those in it; the last file of a pack marks it as whole."""
        with tarfile.open(fileobj=data) as file:
            for member in file:
                file.extract(member, self.work, filter="data")
                inner = self.work / member.name
                if inner.parent == self.work and inner.name.endswith(".tar.xz"):
                    with inner.open("rb") as opened:
                        self.unpack(opened)
                    inner.unlink()
                if self.now() - self.spoken > 1:
                    self.write_status()

    def advance(self, state: State) -> None:
        """Start a job whose time has come; note the end of one that runs."""
        job = state.job
        if state.status == "waiting":
            blocked = [
                name for name in job.needs if name in self.jobs and self.jobs[name].status in ("failed", "skipped")
            ]
            if blocked or self.now() > min(job.until, self.end - LAST_CALL_S):
                state.status = "skipped"
                self.say(f"skipped {job.name}: {', '.join(blocked) or 'too late'}")
            elif self.is_ready(job):
                self.start(state)
        elif state.status == "running":
            assert state.process is not None
            code = state.process.poll()
            if code is None:
                if self.now() > min(job.until, self.end - LAST_CALL_S) and not state.stopped:
                    state.stopped = True
                    self.say(f"time is up for {job.name}")
                    os.killpg(state.process.pid, signal.SIGTERM)
                return
            if code == 0:
                state.status = "done"
            else:
                self.note_failure(state)
            self.say(f"{state.status} {job.name}: exit {code} after {self.now() - state.begun:.1f} s")

    def note_failure(self, state: State) -> None:
        """Let a job wait for its second try, if it has one."""
        state.failures += 1
        state.status = "waiting" if state.failures < MOST_FAILURES and not state.stopped else "failed"

    def is_ready(self, job: Job) -> bool:
        """Return whether everything that a job waits for is there, and its lanes are free."""
        there = self.groups | {name for name, state in self.jobs.items() if state.status == "done"}
        ended = {name for name, state in self.jobs.items() if state.status in ENDED}
        first = [
            next(
                state.job.name for state in self.jobs.values() if lane in state.job.lanes and state.status not in ENDED
            )
            for lane in job.lanes
        ]
        return there.issuperset(job.needs) and ended.issuperset(job.after) and all(name == job.name for name in first)

    def seconds(self, job: Job) -> float:
        """Return the training time of a job: its share of what its fullest lane has left."""
        shares = []
        for lane in job.lanes:
            left = [one.job for one in self.jobs.values() if lane in one.job.lanes and one.status not in ENDED]
            training = self.end - LAST_CALL_S - self.now() - sum(one.startup for one in left)
            shares.append(job.seconds * min(1.0, training / max(1.0, sum(one.seconds for one in left))))
        return max(5.0, min(shares, default=math.inf))

    def start(self, state: State) -> None:
        """Start a job's process, which goes on with the run that an earlier one left."""
        try:
            state.process = self.process(state)
        except Exception:
            self.note_failure(state)
            raise
        state.status, state.begun = "running", self.now()
        state.starts += 1
        self.say(f"start {state.job.name}" + (f" for {state.seconds:.1f} s of training" if state.seconds else ""))
        self.write_status()  # has the process from now on

    def process(self, state: State) -> subprocess.Popen[bytes]:
        """Return the process of a job."""
        job = state.job
        resumed = bool(job.out and state.starts and (self.work / job.out / "run.json").exists())
        if job.seconds and not resumed:
            state.seconds = round(self.seconds(job), 1)
        text = ((job.retry if state.failures else "") or job.command).format(
            python=sys.executable, training="tools.demo_run.small" if self.small else "training",
            port=29_500 + 10 * list(self.jobs).index(job.name) + state.starts, seconds=state.seconds,
            items=8 if self.small else 256, few="--items 2" if self.small else "",
            # what two lanes on one GPU hold
            demo=SMALL if self.small else "--scale 0.5" if self.gpus == 1 else "",
            play=SMALL if self.small else "--scale 0.7" if self.gpus == 1 else "",
            whole=SMALL if self.small else "",
            common="--device cpu --save-every 5 --log-every 2" if self.small else "--save-every 120 --log-every 100",
            # generators sample every class at a checkpoint
            rare="--device cpu --save-every 15 --log-every 2" if self.small else "--save-every 170 --log-every 100",
        )  # fmt: skip
        if resumed:
            text += " --resume"
        self.drop_empty_sets()
        with (self.work / "logs" / f"{job.name}.log").open("ab") as log:
            log.write(f"$ {text}\n".encode())
            log.flush()
            return subprocess.Popen(
                text.split(), cwd=self.work, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                env=self.environment(job), start_new_session=True, preexec_fn=lambda: os.nice(job.nice) and None,
            )  # fmt: skip

    def environment(self, job: Job) -> dict[str, str]:
        """Return the environment of a job: its GPUs, caches of compiled code that all share, libraries of the packs."""
        gpus = "0" if self.gpus == 1 else ",".join(map(str, job.lanes or job.gpus))
        own = {
            "PYTHONPATH": str(self.work / "code"), "PYTHONUNBUFFERED": "1", "CUDA_VISIBLE_DEVICES": gpus,
            "TORCHINDUCTOR_CACHE_DIR": str(self.work / "inductor"), "TRITON_CACHE_DIR": str(self.work / "triton"),
            "TORCHINDUCTOR_COMPILE_THREADS": "8", "OMP_NUM_THREADS": "1" if self.small else "4",
            "DEMO_RUN_SMALL": "1" if self.small else "", MARK: self.mark(job),
            "NCCL_SOCKET_IFNAME": "lo", "GLOO_SOCKET_IFNAME": "lo", "COLUMNS": "160",
        }  # fmt: skip
        if job.name.startswith(("record", "play", "measured")) and not _loads("libGL.so.1", "libgthread-2.0.so.0"):
            own["LD_LIBRARY_PATH"] = f"{self.work / 'libraries'}:{os.environ.get('LD_LIBRARY_PATH', '')}".rstrip(":")
        return os.environ | own

    def drop_empty_sets(self) -> None:
        """Remove the description of sets of which no shard was made, which training would refuse."""
        building = any(state.status == "running" and "data build" in state.job.command for state in self.jobs.values())
        for info in [] if building else self.work.glob("data/*/**/set.json"):
            if not list(info.parent.glob("[0-9]*.npy")):
                info.unlink()

    def write_status(self) -> None:
        """Write where the run is, so that calls see that this process lives, and another host can go on."""
        jobs = {
            name: {
                "status": state.status, "starts": state.starts, "failures": state.failures, "seconds": state.seconds,
                "pid": state.process.pid if state.process is not None and state.status == "running" else None,
            }
            for name, state in self.jobs.items()
        }  # fmt: skip
        self.spoken = self.now()
        status = {
            "clock": round(self.spoken, 1), "end": self.end, "pid": os.getpid(), "gpus": self.gpus, "ended": self.ended,
            "jobs": jobs,
        }  # fmt: skip
        fresh = self.work / "status.tmp"
        fresh.write_text(json.dumps(status, indent=1))
        fresh.replace(self.work / "status.json")


def end_processes(mark: str, group: int | None) -> None:
    """End a job's process group, and what it started in groups of its own, as the ranks of a job on two GPUs are."""
    if group is not None:
        with suppress(OSError):
            os.killpg(group, signal.SIGKILL)
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # of another user, or gone
            if f"{MARK}={mark}".encode() in path.read_bytes().split(b"\0"):
                os.kill(int(path.parent.name), signal.SIGKILL)


def _loads(*libraries: str) -> bool:
    try:
        for name in libraries:
            ctypes.CDLL(name)
    except OSError:
        return False
    return True


def main() -> None:
    """Run the plan."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--end", type=float, default=1440)
    parser.add_argument("--small", action="store_true", help="a rehearsal on a CPU")
    parser.add_argument("--gpus", type=int, choices=(1, 2), help="the plan's; those of the machine by default")
    arguments = parser.parse_args()
    Host(arguments.work.resolve(), arguments.end, arguments.small, arguments.gpus).run()


if __name__ == "__main__":
    main()
