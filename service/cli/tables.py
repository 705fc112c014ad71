"""Tables on standard output: a row is a line, and no cell is cut, since names and ids are there to be copied."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

MAX_WIDTH = 10_000  # Rich cuts cells at the width of a terminal, which wraps longer lines by itself


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows below their header."""
    table = Table(*header, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*map(Text, row))
    Console(width=MAX_WIDTH).print(table)
