"""Line plots of evaluations, drawn without a display."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from training.errors import TrainingError

SIZE = (7.0, 4.0)  # inches
DOTS = 150  # per inch


@dataclass(frozen=True)
class Line:
    """A curve: its name, its points, and matplotlib's format of it."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    style: str


@dataclass(frozen=True)
class Band:
    """An area between two curves."""

    label: str
    x: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


def plot(
    path: Path,
    x: str,
    y: str,
    lines: Sequence[Line],
    band: Band | None = None,
    marks: Sequence[float] = (),
    mark_label: str = "",
) -> None:
    """Draw curves into a PNG, under a temporary name first.

    Args:
        path: of the picture.
        x, y: names of the axes.
        lines: the curves.
        band: an area behind them.
        marks: places on the x axis that get a vertical line, explained by `mark_label`.

    Raises:
        TrainingError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import
        from matplotlib.figure import Figure
    except ImportError as error:
        raise TrainingError(
            "plots need matplotlib: install the extra `train`, as in pip install omnitok[train]"
        ) from error
    figure = Figure(figsize=SIZE, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for number, place in enumerate(marks):
        axes.axvline(place, color="0.85", zorder=0, label="_" if number else mark_label)
    if band is not None:
        axes.fill_between(band.x, band.low, band.high, alpha=0.15, label=band.label)
    for line in lines:
        axes.plot(line.x, line.y, line.style, label=line.label)
    axes.set(xlabel=x, ylabel=y)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False)
    fresh = path.with_name(f".tmp-{path.name}")
    figure.savefig(fresh, dpi=DOTS, format="png")
    fresh.replace(path)
