"""The figures of a run: a table that any program reads, and TensorBoard curves."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

METRICS_FILE = "metrics.csv"


class Journal:
    """Writes figures below the folder of a run.

    Args:
        out: the folder, which exists.
    """

    def __init__(self, out: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        self.path = out / METRICS_FILE
        self.board = SummaryWriter(str(out / "tensorboard"))

    def training(self, row: dict[str, Any]) -> None:
        """Record one step: a line of the table, and a curve for each figure of its kind of batch.

        Args:
            row: `step`, `kind` ("images" or "clips") and figures, the same keys every time.
        """
        fresh = not self.path.exists()
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            if fresh:
                writer.writeheader()
            writer.writerow(row)
        self.scalars(row["kind"], {name: row[name] for name in row if name not in ("step", "kind")}, row["step"])

    def scalars(self, group: str, figures: dict[str, float], step: int) -> None:
        """Record curves `group/name` at a step."""
        for name, value in figures.items():
            self.board.add_scalar(f"{group}/{name}", value, step)
        self.board.flush()
