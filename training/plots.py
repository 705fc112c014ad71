"""Plots drawn without a display."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from model.atomic_write import replacing
from training.errors import TrainingError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS_PER_INCH = 150


@contextmanager
def plotting(path: Path, size: tuple[float, float] = (7.0, 4.0)) -> Iterator[Figure]:
    """Give a figure to draw on, which is written when the block ends well.

    Args:
        path: of the picture; its suffix decides the format.
        size: width and height in inches.

    Raises:
        TrainingError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import
        from matplotlib.figure import Figure
    except ImportError as error:
        raise TrainingError("Plots need matplotlib: run pip install -e '.[train]' in a checkout.") from error
    figure = Figure(figsize=size, dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    yield figure
    with replacing(path) as fresh:
        figure.savefig(fresh)
