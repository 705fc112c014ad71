"""The stores of jobs that the tests hold to the same rules, each with its faults."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from service.jobs.artifacts import Artifacts
from service.jobs.records import Quotas
from service.jobs.redis_store import PREFIX, RedisStore
from service.jobs.sqlite_store import SqliteStore
from service.jobs.store import JobStore


class Clock:
    """The store's, which the tests move: a slow machine loses no lease."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


class CrashError(Exception):
    """The process died."""


class Fuse:
    """Ends the process before the step of that number."""

    def __init__(self) -> None:
        self.left: int | None = None

    def step(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                self.left = 0  # a dead process does nothing more
                raise CrashError


class Place(Protocol):
    """The place of a store's jobs."""

    def open(self, quotas: Quotas, clock: Callable[[], float], fuse: Fuse | None = None) -> JobStore:
        """Return the store of this place."""
        ...

    def contents(self) -> set[str]:
        """Return the names of contents that are there, in part or as a whole."""
        ...

    def clear(self) -> None:
        """Forget everything."""
        ...


class SqlitePlace:
    """A folder."""

    def __init__(self, folder: Path) -> None:
        self._root, self._count = folder, 0

    @property
    def folder(self) -> Path:
        return self._root / str(self._count)

    def open(self, quotas: Quotas, clock: Callable[[], float], fuse: Fuse | None = None) -> SqliteStore:
        if fuse is None:
            return SqliteStore(self.folder, quotas, clock)
        return SqliteStore(self.folder, quotas, clock, _brittle_database(fuse), _brittle_files(fuse))

    def contents(self) -> set[str]:
        return {path.name.removesuffix(".part") for path in (self.folder / "content").iterdir()}

    def clear(self) -> None:
        self._count += 1


class RedisPlace:
    """A server."""

    def __init__(self, url: str) -> None:
        self.url, self.client = url, redis.Redis.from_url(url)
        self.clear()

    def open(self, quotas: Quotas, clock: Callable[[], float], fuse: Fuse | None = None) -> RedisStore:
        return RedisStore(self.url, quotas, clock, _brittle_client(fuse or Fuse()))

    def contents(self) -> set[str]:
        return {key.decode().rpartition(":")[2] for key in self.client.keys(f"{PREFIX}content:*")}

    def clear(self) -> None:
        self.client.flushall()


def _brittle_database(fuse: Fuse) -> Callable[[Path], sqlite3.Connection]:
    class Connection(sqlite3.Connection):
        def execute(self, *arguments: Any) -> sqlite3.Cursor:
            fuse.step()
            return super().execute(*arguments)

    return lambda path: sqlite3.connect(path, isolation_level=None, factory=Connection)


def _brittle_files(fuse: Fuse) -> Callable[[Path], Artifacts]:
    class Files(Artifacts):
        def write(self, *arguments: Any) -> None:
            fuse.step()
            super().write(*arguments)

        def finish(self, *arguments: Any) -> None:
            fuse.step()
            super().finish(*arguments)

        def remove(self, *arguments: Any) -> None:
            fuse.step()
            super().remove(*arguments)

    return Files


def _brittle_client(fuse: Fuse) -> Callable[[str], redis.Redis]:
    class Client(redis.Redis):
        def execute_command(self, *arguments: Any, **options: Any) -> Any:
            fuse.step()
            answer = super().execute_command(*arguments, **options)
            fuse.step()  # what was done stays done
            return answer

    return lambda url: Client.from_url(url, retry=Retry(NoBackoff(), 0))
