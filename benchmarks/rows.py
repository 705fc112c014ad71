"""Rows of figures: in a file as they come, and as tables of Markdown."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

from model.atomic_write import replacing

Row = dict[str, str]  # text by column, as a page shows it


class RowFile:
    """Rows that are printed and kept one by one, so that those of a run that is stopped are there.

    Args:
        path: of the JSON; None keeps nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.rows: list[Row] = []

    def add(self, row: Row) -> None:
        """Keep a row."""
        self.rows.append(row)
        print("; ".join(f"{name}: {text}" for name, text in row.items()), flush=True)
        if self._path is not None:
            write_rows(self._path, self.rows)


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as JSON, at once."""
    with replacing(path) as fresh:
        fresh.write_text(json.dumps(rows, indent=1, ensure_ascii=False))


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a file; none without one."""
    rows: list[Row] = json.loads(path.read_text()) if path.exists() else []
    return rows


def markdown(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the lines of tables, a new one wherever the columns change."""
    for number, (columns, same) in enumerate(groupby(rows, key=tuple)):
        if number:
            yield ""
        yield from markdown_table(columns, (row.values() for row in same))


def markdown_table(columns: Collection[str], rows: Iterable[Iterable[object]]) -> Iterator[str]:
    """Yield the lines of a table as its rows come."""
    yield f"| {' | '.join(columns)} |"
    yield "|---" * len(columns) + "|"
    for cells in rows:
        yield "|" + "".join(f" {cell} |" if cell != "" else " |" for cell in cells)
