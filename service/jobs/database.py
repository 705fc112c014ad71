"""The database of jobs: its tables, its durability, and the lock that gives its folder to one process."""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from service.jobs.records import Job

SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    key TEXT,
    fingerprint TEXT NOT NULL,
    kind TEXT NOT NULL,
    facts TEXT NOT NULL,
    status TEXT NOT NULL DEFAULT 'queued',
    created REAL NOT NULL,
    started REAL,
    finished REAL,
    done INTEGER NOT NULL DEFAULT 0,
    total INTEGER NOT NULL,
    losses INTEGER NOT NULL DEFAULT 0,
    error TEXT,
    media_type TEXT,
    content TEXT,
    bytes INTEGER NOT NULL,
    last_event INTEGER NOT NULL DEFAULT 0,
    token INTEGER NOT NULL DEFAULT 0,
    worker TEXT,
    lease_until REAL,
    runnable_at REAL NOT NULL,
    UNIQUE (owner, key)
);
CREATE INDEX jobs_by_status ON jobs (status, number);
CREATE TABLE requests (
    job INTEGER PRIMARY KEY REFERENCES jobs (number) ON DELETE CASCADE,
    data BLOB NOT NULL
);
CREATE TABLE events (
    job INTEGER NOT NULL REFERENCES jobs (number) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    name TEXT NOT NULL,
    fields TEXT NOT NULL,
    PRIMARY KEY (job, number)
);
"""
PRAGMAS = (
    "journal_mode = WAL",
    "synchronous = FULL",  # a job that was accepted survives a power cut
    "foreign_keys = ON",
    f"journal_size_limit = {2**24}",  # bytes; the log shrinks to this after a large request
)
OPEN_SECONDS = 60.0  # the last owner may be on its way out
POLL_SECONDS = 0.1

Connect = Callable[[Path], sqlite3.Connection]


class StoreInUseError(OSError):
    """Another process owns the folder; the message is one sentence."""


def connect(path: Path) -> sqlite3.Connection:
    """Return a connection whose transactions are begun by hand, for any one thread at a time."""
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False)


def open_database(path: Path, connect: Connect) -> sqlite3.Connection:
    """Return a connection to the database, whose tables are made if they are missing.

    Raises:
        OSError, sqlite3.Error: it cannot be used.
    """
    database = connect(path)
    database.row_factory = sqlite3.Row
    for pragma in PRAGMAS:
        database.execute(f"PRAGMA {pragma}")
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version not in (0, SCHEMA_VERSION):
        raise OSError(f"{path} has version {version} of its tables, not {SCHEMA_VERSION}. Name another folder.")
    if not version:
        database.execute("BEGIN IMMEDIATE")
        for statement in SCHEMA.split(";\n"):
            database.execute(statement)
        database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        database.execute("COMMIT")
    return database


def job_of(row: sqlite3.Row) -> Job:
    """Return the record in a row."""
    return Job(
        row["id"],
        row["owner"],
        row["kind"],
        json.loads(row["facts"]),
        row["status"],
        row["created"],
        row["started"],
        row["finished"],
        row["done"],
        row["total"],
        row["losses"],
        None if row["error"] is None else json.loads(row["error"]),
        row["media_type"],
        None if row["content"] is None else row["bytes"],
        row["last_event"],
    )


def lock_folder(folder: Path) -> int:
    """Return a descriptor that holds the lock of a folder; an owner that ends is waited for.

    Raises:
        StoreInUseError: another process keeps it.
    """
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + OPEN_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise StoreInUseError(f"Another service keeps its jobs in {folder}. Name another folder.") from None
            time.sleep(POLL_SECONDS)
        else:
            return descriptor
