"""Metrics of a run: a table that any program reads, and TensorBoard curves."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from model.atomic_write import replace_file
from training.errors import TrainingError

METRICS_FILE = "metrics.csv"


class MetricsLogger:
    """Writes metrics below the folder of a run.

    Args:
        out: the folder, which exists.

    Raises:
        TrainingError: TensorBoard is not installed.
    """

    def __init__(self, out: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter  # slow to import
        except ImportError as error:
            raise TrainingError(
                "Training needs TensorBoard for its curves: run pip install -e '.[train]' in a checkout."
            ) from error
        self.path = out / METRICS_FILE
        self.curves = out / "tensorboard"
        self.board = SummaryWriter(str(self.curves))

    def rewind(self, step: int) -> None:
        """Remove the rows and points after a step: a run that crashed has logged more than its checkpoint holds."""
        if self.path.exists():
            lines = self.path.read_bytes().splitlines(keepends=True)
            header = b"".join(line for line in lines[:1] if line.endswith(b"\n"))
            replace_file(self.path, header + b"".join(line for line in lines[1:] if _is_up_to(line, step)))
        self.board.close()
        self.board = type(self.board)(str(self.curves), purge_step=step + 1)

    def log_step(self, row: dict[str, Any]) -> None:
        """Record one step: a row of the table, and a curve for each metric of its kind of batch.

        Args:
            row: `step`, first, `kind` ("images" or "clips") and metrics, the same keys every time; None for a metric
                that this step has not.
        """
        fresh = not self.path.exists() or not self.path.stat().st_size
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            if fresh:
                writer.writeheader()
            writer.writerow(row)
        metrics = {name: row[name] for name in row if name not in ("step", "kind") and row[name] is not None}
        self.log_scalars(row["kind"], metrics, row["step"])

    def log_scalars(self, group: str, metrics: dict[str, float], step: int) -> None:
        """Record curves `group/name` at a step."""
        for name, value in metrics.items():
            self.board.add_scalar(f"{group}/{name}", value, step)
        self.board.flush()


def _is_up_to(row: bytes, step: int) -> bool:
    """Return whether a row of the table is whole and of this step or an earlier one."""
    number = row.partition(b",")[0]
    return row.endswith(b"\n") and number.isdigit() and int(number) <= step
