"""Processes of this machine by descent or by environment, and signals to many of them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path


def descendants(root: int) -> list[int]:
    """Return the ids of the running processes below a process."""
    children: dict[int, list[int]] = {}
    for pid, _, state, parent in _processes():
        if state != "Z":
            children.setdefault(parent, []).append(pid)
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found[1:]


def ended_children() -> list[str]:
    """Return the names of the processes that this one started, that have ended, and that it has not waited for."""
    return [name for _, name, state, parent in _processes() if state == "Z" and parent == os.getpid()]


def with_environment(text: str) -> list[int]:
    """Return the ids of the processes that have a text in their environment, of those that this user may look at."""
    found = []
    for entry in _entries():
        with suppress(OSError):
            if os.fsencode(text) in (entry / "environ").read_bytes():
                found.append(int(entry.name))
    return found


def signal_all(pids: Iterable[int], number: signal.Signals) -> None:
    """Send a signal to processes, of which some may have ended."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _processes() -> Iterator[tuple[int, str, str, int]]:
    """Yield id, name, state and parent of each process."""
    for entry in _entries():
        with suppress(OSError):  # it has ended
            head, _, rest = (entry / "stat").read_text(errors="replace").rpartition(")")  # names are any bytes
            state, parent = rest.split()[:2]
            yield int(entry.name), head.partition("(")[2], state, int(parent)


def _entries() -> Iterator[Path]:
    return Path("/proc").glob("[0-9]*")
