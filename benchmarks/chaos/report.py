"""The view that callers had of events: how long each took, which calls failed, and the table of them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import typer

from benchmarks.chaos.callers import Call, Callers
from benchmarks.rows import markdown_table

COLUMNS = ("event", "happened", "over after, s", "calls", "failed", "longest gap, s", "slowest call, s")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Row:
    """The view that callers had of one event.

    Args:
        title: of the event.
        seconds: until it was over.
        calls: that ran meanwhile and shortly after.
        failed: of them, by error.
        gap: longest time without an answer, seconds.
        slowest: call, seconds.
    """

    title: str
    seconds: float
    calls: int
    failed: Counter[str]
    gap: float
    slowest: float


def watch(title: str, happen: Callable[[], Made], load: Callers, quiet: float) -> tuple[Row, Made]:
    """Return the calls while something happens and for `quiet` seconds after it, and what it returned."""
    begun = time.monotonic()
    made = happen()
    over = time.monotonic()
    time.sleep(quiet)
    end = time.monotonic()
    calls = load.between(begun, end)
    answers = sorted((begun, end, *(call.ended for call in calls if not call.error)))
    gap = max(later - earlier for earlier, later in pairwise(answers))
    failed = Counter(call.error for call in calls if call.error)
    slowest = max((call.ended - call.begun for call in calls), default=0.0)
    return Row(title, over - begun, len(calls), failed, gap, slowest), made


def watch_each(events: Mapping[str, Callable[[], object]], load: Callers, quiet: float) -> list[Row]:
    """Let events happen one after the other, and return and print the row of each; arguments as of `watch`."""
    rows = []
    for title, happen in events.items():
        rows.append(watch(title, happen, load, quiet)[0])
        print(rows[-1], flush=True)
    return rows


def table(rows: Sequence[Row], calls: Sequence[Call]) -> Iterator[str]:
    """Return the lines of a Markdown table of the events, and their sum."""
    return markdown_table(COLUMNS, _shown(rows, calls))


def _shown(rows: Sequence[Row], calls: Sequence[Call]) -> Iterator[tuple[object, ...]]:
    for title in dict.fromkeys(row.title for row in rows):
        same = [row for row in rows if row.title == title]
        failed = sum((row.failed for row in same), Counter[str]())
        seconds = " / ".join(f"{row.seconds:.1f}" for row in same)
        errors = "; ".join(f"{count} x {error}" for error, count in failed.most_common(3)) or "0"
        ran, gap = sum(row.calls for row in same), max(row.gap for row in same)
        slowest = max(row.slowest for row in same)
        yield title, len(same), seconds, ran, errors, f"{gap:.1f}", f"{slowest:.1f}"
    failures = sum(bool(call.error) for call in calls)
    slowest = max(call.ended - call.begun for call in calls)
    yield "all", len(rows), "", len(calls), failures, "", f"{slowest:.1f}"


def report(rows: Sequence[Row], calls: Sequence[Call]) -> None:
    """Print the table of the events.

    Raises:
        typer.Exit: with 1, if a call failed.
    """
    for line in table(rows, calls):
        print(line)
    if any(call.error for call in calls):
        raise typer.Exit(1)
