"""`python -m kernels.compile_server`: Triton kernels compiled by processes of their own into Triton's cache on disk.

Reading a kernel's source is up to half of its compilation and holds the interpreter's lock: threads would do it one
after the other, and whoever serves requests would wait for them. The server never touches a GPU. It forks a process
for each kernel, so that one which crashes the compiler takes nothing with it, and ends with the process that began it.
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import wait
from types import SimpleNamespace
from typing import Any, TypedDict


class Job(TypedDict):
    """A kernel to compile.

    module, name: where its function is. specialization: as Triton's hooks describe it. target: backend, architecture
    and threads of a warp. cache: Triton's folder.
    """

    module: str
    name: str
    specialization: str
    target: tuple[str, int, int]
    cache: str


class CompileServer:
    """The server as its parent sees it: begun with the first job, begun again after a rest, used from any thread.

    Args:
        idle: seconds without a job after which it ends.
    """

    def __init__(self, idle: float = 60.0) -> None:
        self._idle = idle
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._waiting: dict[int, threading.Event] = {}
        self._closed = False

    def compile(self, job: Job) -> None:
        """Return when the kernel is in the cache, or when it does not come there; as many at a time as one likes."""
        number, done = next(self._numbers), threading.Event()
        with self._lock:
            try:
                stdin = self._begun().stdin
                assert stdin is not None
                self._waiting[number] = done
                stdin.write(json.dumps([number, job]) + "\n")
                stdin.flush()
            except (OSError, RuntimeError):  # no process or no thread can be begun, or this one has ended
                self._waiting.pop(number, None)
                return
        done.wait()

    def close(self) -> None:
        """End it, and what it is compiling; it is not begun again."""
        with self._lock:
            self._closed, process = True, self._process
            if process is not None:
                assert process.stdin is not None
                with suppress(BrokenPipeError):
                    process.stdin.close()
                process.wait()

    def _begun(self) -> subprocess.Popen[str]:
        if self._closed:
            raise BrokenPipeError
        if self._process is None:
            alone = {"PYTHONPATH": os.pathsep.join(sys.path), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, str(self._idle)],
                env=os.environ | alone,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,  # an interrupt is the parent's to answer
            )
            try:
                threading.Thread(target=self._read, args=(process,), name="compiled", daemon=True).start()
            except RuntimeError:
                process.kill()
                raise
            self._process = process
        return self._process

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._waiting.pop(int(line)).set()
        process.wait()
        with self._lock:
            self._process = None
            self._closed |= process.returncode != 0  # it would end so again
            waiting, self._waiting = self._waiting, {}
        for done in waiting.values():
            done.set()


def main() -> None:
    """Read jobs, a line each, and write a job's number when its process has ended, however that was."""
    importlib.import_module("triton")  # once for all processes
    answers = os.dup(1)
    os.dup2(2, 1)  # what others print is no answer
    fork = get_context("fork")
    running: dict[int, tuple[int, Any]] = {}
    rest = b""
    while ends := wait([0, *running], None if running else float(sys.argv[1])):
        for ready in (end for end in ends if isinstance(end, int)):
            if ready in running:
                number, process = running.pop(ready)
                process.join()
                with suppress(BrokenPipeError):
                    os.write(answers, b"%d\n" % number)
            elif data := os.read(ready, 1 << 16):
                *lines, rest = (rest + data).split(b"\n")
                for number, job in map(json.loads, lines):
                    process = fork.Process(target=_compile, args=(job,))
                    process.start()
                    running[process.sentinel] = number, process
            else:  # the parent has ended
                for _, process in running.values():
                    process.kill()
                return


def _compile(job: Job) -> None:
    from triton import knobs  # type: ignore[import-untyped]
    from triton.backends.compiler import GPUTarget  # type: ignore[import-untyped]
    from triton.runtime import driver  # type: ignore[import-untyped]

    target = GPUTarget(*job["target"])
    driver.set_active(SimpleNamespace(get_current_device=lambda: 0, get_current_target=lambda: target))
    knobs.cache.dir = job["cache"]
    with suppress(Exception):  # the parent compiles it once more and has the error
        getattr(importlib.import_module(job["module"]), job["name"]).preload(job["specialization"])


if __name__ == "__main__":
    main()
