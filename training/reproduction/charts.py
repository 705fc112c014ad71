"""Pictures of the results: curves of training, and for every table the mean and range of a figure over the seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from training.errors import TrainingError
from training.reproduction.paper import ABLATIONS, Ablation
from training.reproduction.results import Results, mean
from training.reproduction.significance import LARGER_IS_BETTER

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DOTS = 110  # per inch
SMOOTHED = 5  # lines of a curve that are averaged
UNITS = {"PSNR": "PSNR, dB"}


def draw_all(results: Results, folder: Path) -> dict[str, Path]:
    """Draw every picture; returns the files by name: "curves", "table-7", ...

    Raises:
        TrainingError: matplotlib is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = {"curves": folder / "reproduction-curves.png"}
    _curves(results, paths["curves"])
    for ablation in ABLATIONS:
        name = f"table-{ablation.number}"
        paths[name] = folder / f"reproduction-{name}.png"
        _bars(results, ablation, paths[name])
    return paths


def _curves(results: Results, path: Path) -> None:
    """PSNR of the batches of training against the steps of the whole run, a line for each run."""
    figure = _figure(11.0, 4.2)
    axes = figure.subplots(1, 2)
    names = list(dict.fromkeys(run["variant"] for run in results.runs))
    for axis, kind in zip(axes, ("images", "clips"), strict=True):
        for run in results.runs:
            points = _points(run["stages"], kind)
            if points:
                x, y = zip(*points, strict=True)
                label = run["variant"] if run["seed"] == results.seeds[0] else None
                axis.plot(x, y, color=f"C{names.index(run['variant'])}", linewidth=1, alpha=0.8, label=label)
        axis.set(title=f"batches of {kind}", xlabel="step of the run", ylabel=UNITS["PSNR"])
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(fontsize=7)
    _save(figure, path)


def _points(stages: dict[str, dict], kind: str) -> list[tuple[float, float]]:
    """Smoothed points of a run; every stage goes on where the one before it ended."""
    points, before = [], 0
    for stage in stages.values():
        curve = stage["curves"].get(kind)
        if curve:
            points += [
                (before + step, mean(curve["psnr"][max(0, place + 1 - SMOOTHED) : place + 1]))
                for place, step in enumerate(curve["step"])
            ]
        before += stage["steps"]
    return points


def _bars(results: Results, ablation: Ablation, path: Path) -> None:
    """A panel for each of our columns."""
    columns = ablation.columns
    figure = _figure(2.6 * len(columns), 0.45 * len(ablation.rows) + 1.6)
    panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for axis, (held_out, name) in zip(panels, columns, strict=True):
        _panel(axis, [results.values(row.entry, held_out, name) for row in ablation.rows])
        better = "more" if name in LARGER_IS_BETTER else "less"
        axis.set_title(f"{held_out}\n{UNITS.get(name, name)} ({better} is better)", fontsize=8)
        axis.tick_params(labelsize=8)
    panels[0].set_yticks(range(len(ablation.rows)), [row.label for row in ablation.rows])
    panels[0].invert_yaxis()
    _save(figure, path)


def _panel(axis: Axes, rows: Sequence[Sequence[float]]) -> None:
    """A bar over the range of the seeds, a point for each, a stroke at their mean.

    Bars from zero would hide the differences, and cut ones would magnify them.
    """
    for place, values in enumerate(rows):
        if values:
            axis.barh(place, max(values) - min(values), left=min(values), height=0.5, color="C0", alpha=0.3)
            axis.plot(values, [place] * len(values), "k.", markersize=5)
            axis.plot([mean(values)] * 2, [place - 0.3, place + 0.3], color="C0", linewidth=2)
    axis.use_sticky_edges = False  # of the bars, at which margins would end
    axis.margins(x=0.15)
    axis.grid(axis="x", alpha=0.3)


def _figure(width: float, height: float) -> Figure:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import
        from matplotlib.figure import Figure
    except ImportError as error:
        raise TrainingError(
            "pictures need matplotlib: install the extra `train`, as in pip install omnitok[train]"
        ) from (error)
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: Path) -> None:
    fresh = path.with_name(f".tmp-{path.name}")
    figure.savefig(fresh, dpi=DOTS)
    fresh.replace(path)
