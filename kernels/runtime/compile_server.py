"""`python -m kernels.runtime.compile_server`: compile Triton kernels in separate processes into the disk cache.

Parsing a kernel's source is up to half of its compilation and holds the interpreter's lock: threads would serialize,
and requests would wait for them. The server never touches a GPU. It forks a process for each kernel, so that a crash of
the compiler is contained, and exits with its parent.
"""

from __future__ import annotations

import importlib
import itertools
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import wait
from types import SimpleNamespace
from typing import Any, TypedDict

log = logging.getLogger(__name__)


class Job(TypedDict):
    """A kernel to compile.

    module, name: of its function. specialization: as Triton's hooks describe it. target: backend, architecture and
    threads of a warp. cache: absolute path of Triton's cache folder.
    """

    module: str
    name: str
    specialization: str
    target: tuple[str, int, int]
    cache: str


class CompileServer:
    """The parent's handle of the server: starts it with the first job, restarts it after idling; thread-safe.

    Args:
        idle: seconds without a job after which the server exits.
    """

    def __init__(self, idle: float = 60.0) -> None:
        self._idle = idle
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._pending: dict[int, threading.Event] = {}
        self._closed = False

    def compile(self, job: Job) -> None:
        """Return when the kernel is in the cache or has failed; any number may run at once."""
        number, done = next(self._numbers), threading.Event()
        with self._lock:
            try:
                stdin = self._started().stdin
                assert stdin is not None
                self._pending[number] = done
                line = json.dumps([number, job]).encode() + b"\n"
                while line:
                    line = line[stdin.write(line) :]
            except (OSError, RuntimeError):  # no process or thread can start, or the server has exited
                self._pending.pop(number, None)
                return
        done.wait()

    def close(self) -> None:
        """Kill the server and its compilations for good."""
        with self._lock:
            self._closed = True
            if self._process is not None and self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()

    def detach(self) -> None:
        """Release the server in a process that was forked from its parent."""
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._closed or not sys.executable:
            raise BrokenPipeError
        if self._process is None:
            paths = os.pathsep.join(map(str, sys.path))
            answers, written = os.pipe()
            try:
                process = subprocess.Popen(
                    [sys.executable, "-P", "-m", __name__, str(written), str(self._idle)],
                    env=os.environ | {"PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
                    bufsize=0,  # a forked process must not inherit buffered bytes
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    pass_fds=(written,),
                    start_new_session=True,  # an interrupt is for the parent only
                )
            except OSError:
                os.close(answers)
                raise
            finally:
                os.close(written)
            try:
                threading.Thread(target=self._read, args=(process, answers), name="compiled", daemon=True).start()
            except RuntimeError:
                os.close(answers)
                process.kill()
                raise
            self._process = process
        return self._process

    def _read(self, process: subprocess.Popen[bytes], answers: int) -> None:
        with open(answers) as lines, suppress(ValueError, KeyError):  # other code may write to the pipe
            for line in lines:
                self._pending.pop(int(line)).set()
        with suppress(ProcessLookupError):  # the compilations that outlive the server
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stdin is not None
        with self._lock:
            process.stdin.close()
            self._process = None
            if process.returncode != 0 and not self._closed:
                log.warning("the compile server exited with %d; this process compiles kernels", process.returncode)
                self._closed = True  # a restart would fail in the same way
            pending, self._pending = self._pending, {}
        for done in pending.values():
            done.set()


def main() -> None:
    """Read one job a line; write its number when its process has ended, successful or not."""
    answers, idle = int(sys.argv[1]), float(sys.argv[2])
    # once for all processes: the key is a hash over half a gigabyte
    importlib.import_module("triton.runtime.cache").triton_key()
    fork = get_context("fork")
    running: dict[int, tuple[int, Any]] = {}
    rest = b""
    while ends := wait([0, *running], None if running else idle):
        for ready in (end for end in ends if isinstance(end, int)):
            if ready in running:
                number, process = running.pop(ready)
                process.join()
                with suppress(BrokenPipeError):
                    os.write(answers, b"%d\n" % number)
            elif data := os.read(ready, 1 << 16):
                *lines, rest = (rest + data).split(b"\n")
                for number, job in map(json.loads, lines):
                    process = fork.Process(target=_compile, args=(job, answers))
                    process.start()
                    running[process.sentinel] = number, process
            else:  # the parent has exited
                os.killpg(0, signal.SIGKILL)


def _compile(job: Job, answers: int) -> None:
    os.close(answers)  # only the server may hold it: its end signals the server's exit
    from triton import knobs  # type: ignore[import-untyped]
    from triton.backends.compiler import GPUTarget  # type: ignore[import-untyped]
    from triton.runtime import driver  # type: ignore[import-untyped]

    target = GPUTarget(*job["target"])
    driver.set_active(SimpleNamespace(get_current_device=lambda: 0, get_current_target=lambda: target))
    knobs.cache.dir = job["cache"]
    with suppress(Exception):  # the parent compiles it again and raises the error
        getattr(importlib.import_module(job["module"]), job["name"]).preload(job["specialization"])


if __name__ == "__main__":
    main()
