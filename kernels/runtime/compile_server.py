"""`python -m kernels.runtime.compile_server`: compile Triton kernels in processes of their own into the disk cache.

Reading a kernel's source is up to half of its compilation and holds the interpreter's lock: threads would do it one
after the other, and whoever serves requests would wait for them. The server never touches a GPU. It forks a process
for each kernel, so that one which crashes the compiler takes nothing with it, and ends with the process that began it.
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

    module, name: where its function is. specialization: as Triton's hooks describe it. target: backend, architecture
    and threads of a warp. cache: absolute path of Triton's folder.
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
        self._process: subprocess.Popen[bytes] | None = None
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
                line = json.dumps([number, job]).encode() + b"\n"
                while line:
                    line = line[stdin.write(line) :]
            except (OSError, RuntimeError):  # no process or no thread can be begun, or this one has ended
                self._waiting.pop(number, None)
                return
        done.wait()

    def close(self) -> None:
        """End it, and what it is compiling; it is not begun again."""
        with self._lock:
            self._closed = True
            if self._process is not None and self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()

    def leave(self) -> None:
        """Let go of it in a process that was forked from its parent."""
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()

    def _begun(self) -> subprocess.Popen[bytes]:
        if self._closed or not sys.executable:
            raise BrokenPipeError
        if self._process is None:
            paths = os.pathsep.join(map(str, sys.path))
            answers, written = os.pipe()
            try:
                process = subprocess.Popen(
                    [sys.executable, "-P", "-m", __name__, str(written), str(self._idle)],
                    env=os.environ | {"PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
                    bufsize=0,  # a forked process has nothing to write twice
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    pass_fds=(written,),
                    start_new_session=True,  # an interrupt is the parent's to answer
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
        with open(answers) as lines, suppress(ValueError, KeyError):  # of somebody else's
            for line in lines:
                self._waiting.pop(int(line)).set()
        with suppress(ProcessLookupError):  # what it leaves behind
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stdin is not None
        with self._lock:
            process.stdin.close()
            self._process = None
            if process.returncode != 0 and not self._closed:
                log.warning("the compile server ended with %d; kernels are compiled here", process.returncode)
                self._closed = True  # it would end so again
            waiting, self._waiting = self._waiting, {}
        for done in waiting.values():
            done.set()


def main() -> None:
    """Read jobs, a line each, and write a job's number when its process has ended, however that was."""
    answers, idle = int(sys.argv[1]), float(sys.argv[2])
    # once for all processes; the key is a hash over half a gigabyte
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
            else:  # the parent has ended
                os.killpg(0, signal.SIGKILL)


def _compile(job: Job, answers: int) -> None:
    os.close(answers)  # the server's alone: when it ends, so do they
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
