"""The host's part: takes packs as they arrive and runs the plan, in a process that outlives the calls.

`python -m tools.demo_run.host WORK --end 1440` runs until its clock shows `--end`; `WORK/status.json` says where it is.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import math
import os
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from tools.demo_run.plan import Job, plan

ENDED = ("done", "failed", "skipped")
LAST_CALL_S = 25  # before the end, when training is told to write its checkpoint and bundle


@dataclass
class State:
    """A job on its way: waiting, running, done, failed or skipped."""

    job: Job
    status: str = "waiting"
    tries: int = 0
    begun: float = 0
    ended: float = 0
    process: subprocess.Popen[bytes] | None = None


@dataclass
class Host:
    """The run.

    Args:
        work: folder of everything.
        end: of the host's clock.
        small: whether it is a rehearsal on a CPU.
    """

    work: Path
    end: float
    small: bool
    groups: set[str] = field(default_factory=set)
    arrived: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.jobs = {job.name: State(job) for job in plan()}
        clock = self.work / "clock"
        if not clock.exists():
            clock.write_text(str(time.time()))
        self.zero = float(clock.read_text())
        (self.work / "logs").mkdir(exist_ok=True)

    def now(self) -> float:
        """Return the host's clock."""
        return time.time() - self.zero

    def say(self, text: str) -> None:
        """Write a line of the log."""
        with (self.work / "log").open("a") as file:
            file.write(f"{self.now():7.1f} {text}\n")

    def run(self) -> None:
        """Run the plan to its end."""
        while self.now() < self.end and any(state.status not in ENDED for state in self.jobs.values()):
            self.take_packs()
            for state in self.jobs.values():
                self.advance(state)
            self.write_status()
            time.sleep(0.5)
        for state in self.jobs.values():
            if state.process is not None and state.status == "running":
                os.killpg(state.process.pid, signal.SIGKILL)
                state.status = "failed"
        self.say("end")
        self.write_status()

    def take_packs(self) -> None:
        """Unpack what has arrived; a group is there once its last pack and all before are."""
        for path in sorted((self.work / "packs").glob("*.tar")):
            if hashlib.sha256(path.read_bytes()).hexdigest()[:16] != path.stem:
                self.say(f"pack {path.name} is damaged: send it again")
            else:
                with tarfile.open(path) as file:
                    file.extractall(self.work, filter="data")
                for inner in self.work.glob("*.tar.xz"):
                    with tarfile.open(inner) as file:
                        file.extractall(self.work, filter="data")
                    inner.unlink()
                self.arrived = {int(marker.name) for marker in (self.work / "whole").iterdir()}
                self.say(f"unpacked {path.name}: {path.stat().st_size / 2**20:.1f} MiB, packs {sorted(self.arrived)}")
            path.unlink()
        for number in self.arrived:
            if self.arrived.issuperset(range(1, number + 1)):
                self.groups |= set((self.work / "whole" / f"{number:02}").read_text().split())

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
                if self.now() > min(job.until, self.end - LAST_CALL_S) and state.ended == 0:
                    state.ended = self.now()
                    self.say(f"time is up for {job.name}")
                    os.killpg(state.process.pid, signal.SIGTERM)
                return
            took = self.now() - state.begun
            if code == 0:
                state.status = "done"
            else:
                state.status = "waiting" if state.tries < 2 and state.ended == 0 else "failed"
            self.say(f"{state.status if code else 'done'} {job.name}: exit {code} after {took:.1f} s")

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
            training = (
                self.end - LAST_CALL_S - self.now() - sum(one.startup for one in left) * (0.3 if self.small else 1)
            )
            shares.append(job.seconds * training / max(1.0, sum(one.seconds for one in left)))
        return max(5.0, min(shares, default=math.inf))

    def start(self, state: State) -> None:
        """Start a job's process."""
        job = state.job
        command = (job.retry or job.command) if state.tries else job.command
        seconds = self.seconds(job) if job.seconds else 0.0
        names = list(self.jobs)
        text = command.format(
            python=sys.executable, training="tools.demo_run.small" if self.small else "training",
            ranks=2, port=29_500 + names.index(job.name), seconds=f"{seconds:.1f}", items=8 if self.small else 128,
            scale="--scale 0.05 --workers 2" if self.small else "",
            common="--device cpu --save-every 5 --log-every 2" if self.small else "--save-every 120 --log-every 100",
            # generators sample every class at a checkpoint
            rare="--device cpu --save-every 15 --log-every 2" if self.small else "--save-every 170 --log-every 100",
        )  # fmt: skip
        if job.out and (self.work / job.out / "run.json").exists() and state.tries:
            text += " --resume"
        self.drop_empty_sets()
        state.tries += 1
        state.status, state.begun = "running", self.now()
        self.say(f"start {job.name}" + (f" for {seconds:.0f} s of training" if job.seconds else ""))
        with (self.work / "logs" / f"{job.name}.log").open("ab") as log:
            log.write(f"$ {text}\n".encode())
            log.flush()
            state.process = subprocess.Popen(
                text.split(), cwd=self.work, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                env=self.environment(job), start_new_session=True, preexec_fn=lambda: os.nice(job.nice) and None,
            )  # fmt: skip

    def environment(self, job: Job) -> dict[str, str]:
        """Return the environment of a job: its GPUs, caches of compiled code that all share, libraries of the packs."""
        gpus = ",".join(map(str, job.lanes)) or job.gpus
        own = {
            "PYTHONPATH": str(self.work / "code"), "PYTHONUNBUFFERED": "1", "CUDA_VISIBLE_DEVICES": gpus,
            "TORCHINDUCTOR_CACHE_DIR": str(self.work / "inductor"), "TRITON_CACHE_DIR": str(self.work / "triton"),
            "TORCHINDUCTOR_COMPILE_THREADS": "8", "OMP_NUM_THREADS": "1" if self.small else "4",
            "DEMO_RUN_SMALL": "1" if self.small else "",
            "NCCL_SOCKET_IFNAME": "lo", "GLOO_SOCKET_IFNAME": "lo", "COLUMNS": "160",
        }  # fmt: skip
        if job.name.startswith(("record", "play")) and not _loads("libGL.so.1", "libgthread-2.0.so.0"):
            own["LD_LIBRARY_PATH"] = f"{self.work / 'libraries'}:{os.environ.get('LD_LIBRARY_PATH', '')}".rstrip(":")
        return os.environ | own

    def drop_empty_sets(self) -> None:
        """Remove the description of sets of which no shard was made, which training would refuse."""
        building = any(state.status == "running" and "data build" in state.job.command for state in self.jobs.values())
        for info in [] if building else self.work.glob("data/*/**/set.json"):
            if not list(info.parent.glob("[0-9]*.npy")):
                info.unlink()

    def write_status(self) -> None:
        """Write where the run is."""
        status = {name: state.status for name, state in self.jobs.items()}
        fresh = self.work / "status.tmp"
        fresh.write_text(json.dumps({"clock": round(self.now(), 1), "end": self.end, "jobs": status}, indent=1))
        fresh.replace(self.work / "status.json")


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
    arguments = parser.parse_args()
    Host(arguments.work.resolve(), arguments.end, arguments.small).run()


if __name__ == "__main__":
    main()
