"""System calls of media workers as strace sees them, from the moment that their sandbox is closed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterable
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


def read_trace(lines: Iterable[str]) -> Trace:
    """Return the calls in the output of `strace -f`."""
    trace = Trace()
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
    """An strace of this process and all that it starts, for the time of a `with` block.

    Args:
        path: of its output.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Tracer:
        command = ["strace", "-f", "-qq", "-e", "signal=none", "-e", f"trace=seccomp,{','.join(CALLS)}"]
        command += ["-o", str(self._path), "-p", str(os.getpid())]
        self._process = subprocess.Popen(command)
        while _tracer() == 0:
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
            return read_trace(lines)


def _tracer() -> int:
    return int(re.search(r"TracerPid:\s+(\d+)", Path("/proc/self/status").read_text())[1])  # type: ignore[index]
