"""The end of a service: readiness falls, new work is refused, and what was accepted is answered.

The ingress replicas and the process that stops them share a folder. The latter creates a file in it; each replica holds
a lock on another one until it has nothing left to answer. The kernel drops the lock of a replica that dies.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from pathlib import Path

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.errors import problem_response
from service.api.request_id import HEADER
from service.errors import ProblemError
from service.failures import LoopFailures

POLL_SECONDS = 0.1
FLUSH_SECONDS = 0.5  # for the last answers on their way through the proxy
RETRY_SECONDS = 5.0

LIVE_PATHS = frozenset({"/health/live", "/v1/health/live"})
READY_PATHS = frozenset({"/health/ready", "/v1/health/ready"})


class Gate:
    """The door of one ingress replica, plain ASGI around the application.

    Args:
        app: what it wraps.
        folder: shared with the process that drains; None for a cluster where Ray drains replicas one by one.
        notice_seconds: from the fall of readiness to the refusal of work.
    """

    def __init__(self, app: ASGIApp, folder: Path | None, notice_seconds: float) -> None:
        self._app = app
        self._folder = folder
        self._notice = notice_seconds
        self._in_flight = 0
        self._draining = self._closed = False
        self._ending = asyncio.Event()  # ends streams, which would outlast any time for draining
        self._watcher: asyncio.Task[None] | None = None
        self._failures = LoopFailures("the look for the sign to drain")

    def start(self) -> None:
        """Begin to look for the sign to drain."""
        if self._folder is not None:
            lock = os.open(_lock_file(self._folder), os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(lock, fcntl.LOCK_SH)
            self._watcher = asyncio.create_task(self._watch(_sign(self._folder), lock))

    def stop(self) -> None:
        """Look no longer."""
        if self._watcher is not None:
            self._watcher.cancel()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of any ASGI kind."""
        if scope["type"] != "http" or scope["path"] in LIVE_PATHS:
            await self._app(scope, receive, send)
            return
        if self._closed or (self._draining and scope["path"] in READY_PATHS):
            problem = ProblemError("draining", "The service stops. Try again.", retry_after_seconds=RETRY_SECONDS)
            request_id = Headers(scope=scope).get(HEADER, "")
            await problem_response(problem, request_id, close=True)(scope, receive, send)
            return
        self._in_flight += 1
        scope["state"] = {**(scope.get("state") or {}), "ending": self._ending}
        try:
            await self._app(scope, receive, send)
        finally:
            self._in_flight -= 1

    async def _watch(self, sign: Path, lock: int) -> None:
        try:
            while not self._sees(sign):
                await asyncio.sleep(POLL_SECONDS)
            self._draining = True
            await asyncio.sleep(self._notice)
            self._closed = True
            self._ending.set()
            while self._in_flight:
                await asyncio.sleep(POLL_SECONDS)
        finally:
            os.close(lock)

    def _sees(self, sign: Path) -> bool:
        with self._failures.logged():
            return sign.exists()
        return False


def drain(folder: Path, seconds: float) -> bool:
    """Have every ingress replica drain and wait for them; return whether all did in time."""
    _sign(folder).touch()
    deadline = time.monotonic() + seconds
    lock = os.open(_lock_file(folder), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        while time.monotonic() < deadline:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(POLL_SECONDS)
            else:
                time.sleep(FLUSH_SECONDS)
                return True
        return False
    finally:
        os.close(lock)


def _sign(folder: Path) -> Path:
    return folder / "draining"


def _lock_file(folder: Path) -> Path:
    return folder / "serving"
