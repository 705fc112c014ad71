"""System calls of media workers as strace sees them, from the moment that their sandbox is closed."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

# Calls that reach files, sockets, processes or other kernel objects by name; what a worker needs is none of them.
CALLS = (
    *("open", "openat", "openat2", "creat", "socket", "socketpair", "connect", "bind", "listen", "accept", "accept4"),
    *("execve", "execveat", "fork", "vfork", "clone", "clone3", "unlink", "unlinkat", "mkdir", "mkdirat", "rename"),
    *("renameat", "renameat2", "symlink", "symlinkat", "link", "linkat", "chmod", "fchmodat", "truncate", "kill"),
    *("ptrace", "memfd_create", "io_uring_setup", "keyctl", "unshare", "mount", "process_vm_readv", "shmget"),
)
LINE = re.compile(r"^(\d+) +(?:<\.\.\. )?(\w+)(?: resumed>|\()(?:.*?= (-?\d+))?", re.DOTALL)


@dataclass
class Trace:
    """Calls after the sandbox closed.

    Attributes:
        workers: processes that closed it.
        attempts: calls by name, refused ones too.
        successes: calls that returned anything but an error.
    """

    workers: set[int] = field(default_factory=set)
    attempts: Counter[str] = field(default_factory=Counter)
    successes: Counter[str] = field(default_factory=Counter)


def read_trace(lines: Iterable[str], workers: Iterable[int] = ()) -> Trace:
    """Return the calls in the output of `strace -f`.

    Args:
        lines: of it.
        workers: processes whose sandbox was closed before.
    """
    trace = Trace(set(workers))
    for line in lines:
        match = LINE.match(line)
        if match is None:
            continue
        pid, name, result = int(match[1]), match[2], match[3]
        if name == "seccomp":
            trace.workers |= {pid} if result == "0" else set()
        elif pid in trace.workers and name in CALLS:
            trace.attempts[name] += "resumed>" not in line
            trace.successes[name] += result is not None and int(result) >= 0
    trace.successes = +trace.successes
    return trace


class Tracer:
    """An strace of processes and all that they start, for the time of a `with` block.

    Args:
        path: of its output.
        pids: processes that start workers.
        workers: processes whose sandbox is closed.
    """

    def __init__(self, path: Path, pids: Sequence[int], workers: Sequence[int] = ()) -> None:
        self._path, self._pids, self._workers = path, [*pids, *workers], workers

    def __enter__(self) -> Tracer:
        command = ["strace", "-f", "-qq", "-e", "signal=none", "-e", f"trace=seccomp,{','.join(CALLS)}"]
        command += ["-o", str(self._path), *(f"--attach={pid}" for pid in self._pids)]
        self._process = subprocess.Popen(command)
        while not all(map(_tracer, self._pids)):
            if self._process.poll() is not None:
                raise RuntimeError(f"strace ended with status {self._process.returncode}; it needs the right to trace.")
            time.sleep(0.05)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.send_signal(signal.SIGINT)
        self._process.wait()

    def result(self) -> Trace:
        """Return what was seen, after the block."""
        with self._path.open(errors="replace") as lines:
            return read_trace(lines, self._workers)


def _tracer(pid: int) -> int:
    return int(re.search(r"TracerPid:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1])  # type: ignore[index]
