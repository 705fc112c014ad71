"""Rows of a run, kept as JSON lines so that a run can go on where it stopped, and their table."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.rows import markdown_table


@dataclass(frozen=True)
class Outcome:
    """The end of one case.

    Args:
        index, kind, source: of the case.
        answer: "ok", the code of a problem, or a word for what should not be.
        seconds: until it came.
        fault: why this answer is wrong, empty if it is right.
    """

    index: int
    kind: str
    source: str
    answer: str
    seconds: float
    fault: str = ""


class Rows:
    """The rows of a run, on disk as they come.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text().splitlines() if path.exists() else []
        self.rows = [Outcome(**json.loads(line)) for line in lines]
        self._file = path.open("a")

    def missing(self, indices: Iterable[int]) -> list[int]:
        """Return those of the indices that have no row."""
        done = {row.index for row in self.rows}
        return [index for index in indices if index not in done]

    def add(self, row: Outcome) -> None:
        """Keep a row."""
        self.rows.append(row)
        self._file.write(json.dumps(asdict(row)) + "\n")
        self._file.flush()


def table(rows: Sequence[Outcome]) -> Iterator[str]:
    """Return the lines of a Markdown table: answers by kind of damage."""
    return markdown_table(("damage", "cases", "answers", "slowest, s", "faults"), _by_kind(rows))


def _by_kind(rows: Sequence[Outcome]) -> Iterator[tuple[object, ...]]:
    kinds = sorted({row.kind for row in rows})
    for name, chosen in [*((kind, [row for row in rows if row.kind == kind]) for kind in kinds), ("all", list(rows))]:
        answers = ", ".join(f"{key} {count}" for key, count in Counter(row.answer for row in chosen).most_common())
        slowest = max((row.seconds for row in chosen), default=0.0)
        faults = sum(bool(row.fault) for row in chosen)
        yield name.replace("_", " "), len(chosen), answers, f"{slowest:.1f}", faults


def faults(rows: Sequence[Outcome]) -> Iterator[str]:
    """Yield a line for each fault."""
    for row in rows:
        if row.fault:
            yield f"{row.index} ({row.kind}, {row.source}): {row.answer}; {row.fault}"
