"""The watch over a cluster of this machine: what Ray cannot mend ends the process, so that a supervisor restarts it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import ray
from ray import serve

from service.cluster.process_tree import descendants, ended_children, signal_all
from service.failures import LoopFailures

CHECK_SECONDS = 1.0
PROXY_SECONDS = 30.0  # Ray has a new proxy within five; on a busy machine that takes longer, and a start much longer
CONTROLLER_SECONDS = 30.0  # a new controller takes a few seconds, more on a busy machine; requests go on without it
VITAL_PROCESSES = ("gcs_server", "raylet")  # Ray also starts a dashboard and monitors
PR_SET_CHILD_SUBREAPER = 36
KILL_ROUNDS = 10


class LostError(OSError):
    """A part of the cluster that nobody restarts is gone; the message names it."""


class Watchdog:
    """The state of a cluster, looked at once a second.

    Args:
        dead_processes: names of Ray's own processes that have ended.
        proxy_refuses: whether the port of the API is closed; a busy proxy's is not.
        ask_controller: returns when the controller answers, raises when it does not.
        clock: seconds.
    """

    def __init__(
        self,
        dead_processes: Callable[[], list[str]],
        proxy_refuses: Callable[[], bool],
        ask_controller: Callable[[], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._dead_processes = dead_processes
        self._proxy_refuses = proxy_refuses
        self._ask_controller = ask_controller
        self._clock = clock
        self._proxy_seen = self._controller_seen = clock()

    def check_ray(self) -> None:
        """Look once at Ray's own processes.

        Raises:
            LostError: one of them has ended.
        """
        if dead := self._dead_processes():
            raise LostError(f"Ray's {' and '.join(dead)} died, so the service cannot go on. Start it again.")

    @contextlib.contextmanager
    def during_start(self, lost: Callable[[LostError], object]) -> Iterator[None]:
        """Look at Ray's own processes on a thread; whoever starts a service on them would wait for a minute.

        Args:
            lost: called on that thread when one has ended.
        """
        started = threading.Event()

        def look() -> None:
            failures = LoopFailures("the look at Ray's processes")
            while not started.wait(CHECK_SECONDS):
                with failures.logged():
                    try:
                        self.check_ray()
                    except LostError as error:
                        lost(error)
                        return

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        try:
            yield
        finally:
            started.set()
            thread.join()

    def check(self) -> None:
        """Look once.

        Raises:
            LostError: something is gone for good.
        """
        self.check_ray()
        now = self._clock()
        if not self._proxy_refuses():
            self._proxy_seen = now
        for name, seen, limit in (
            ("The proxy", self._proxy_seen, PROXY_SECONDS),
            ("Ray Serve's controller", self._controller_seen, CONTROLLER_SECONDS),
        ):
            if now - seen > limit:
                raise LostError(f"{name} has not answered for {limit:.0f} s. Start the service again.")

    def watch(self) -> None:
        """Look until something is lost.

        Raises:
            LostError: something is gone for good.
        """
        stopped = threading.Event()
        threading.Thread(target=self._ask, args=(stopped,), daemon=True).start()
        try:
            while True:
                self.check()
                time.sleep(CHECK_SECONDS)
        finally:
            stopped.set()  # a question after Ray's shutdown would start another cluster

    def _ask(self, stopped: threading.Event) -> None:
        """Ask the controller on a thread of its own: without a cluster the question never returns."""
        while not stopped.is_set():
            with contextlib.suppress(Exception):  # of any kind: silence is what counts
                self._ask_controller()
                self._controller_seen = self._clock()
            stopped.wait(CHECK_SECONDS)


def local_watchdog(host: str, port: int) -> Watchdog:
    """Return the watchdog of the cluster that this process started, with its API at `host` and `port`."""
    return Watchdog(_dead_ray_processes, lambda: _refuses(host, port), serve.status)


def adopt_orphans() -> None:
    """Become the parent of every orphaned process below this one, where the system allows: all can then be ended.

    HAProxy and media workers outlive a raylet that is killed, and would hold ports and memory.
    """
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


@contextlib.contextmanager
def descendants_ended() -> Iterator[None]:
    """Kill every process below this one, and the raylet at the end of the context.

    Whoever misses the raylet is ended by Ray, with a status of its own: only the exit may follow.
    """
    raylets = [pid for pid in descendants(os.getpid()) if _name(pid) == "raylet"]
    signal_all(raylets, signal.SIGSTOP)  # else it would start workers anew
    for _ in range(KILL_ROUNDS):  # a process that dies can leave children, which this one adopts
        others = set(descendants(os.getpid())).difference(raylets)
        if not others:
            break
        signal_all(others, signal.SIGKILL)
        time.sleep(0.05)
    yield
    signal_all(raylets, signal.SIGKILL)


def leave(folder: Path, status: int) -> NoReturn:
    """Exit without Ray's own shutdown, and leave nothing of the service running.

    Args:
        folder: private to the service, to be removed.
        status: of the exit.
    """
    with descendants_ended():
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(status)


def _dead_ray_processes() -> list[str]:
    node = ray._private.worker._global_node  # Ray has no public list of the processes that it started
    # Until all of them have started there is none, and nobody waits for one that has ended.
    dead = ended_children() if node is None else [name for name, _ in node.dead_processes()]
    return [name for name in dead if name in VITAL_PROCESSES]


def _refuses(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=CHECK_SECONDS).close()
    except ConnectionRefusedError:
        return True
    except OSError:  # a full backlog, say: somebody listens
        return False
    return False


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except OSError:  # it has ended
        return ""
