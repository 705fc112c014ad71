"""The plot of a run: latencies and completions over time."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.service.load import Run
from benchmarks.service.report import completions
from benchmarks.service.rows import SHED
from training.plots import plotting

SIZE = (8.0, 6.0)  # inches


def plot(run: Run, objective_s: float, path: Path) -> None:
    """Draw latency from the planned time, and answers and refusals per second.

    Args:
        run: of `run_load`.
        objective_s: drawn as a line.
        path: of the picture.
    """
    rows, load = run.rows, run.load
    with plotting(path, SIZE) as figure:
        top, bottom = figure.subplots(2, 1, sharex=True)
        latency = 1e3 * (rows["done"] - rows["due"])
        shed = np.isin(rows["status"], SHED)
        ok = rows["status"] == 200
        for label, chosen in (("200", ok), ("429, 503", shed), ("other", ~ok & ~shed)):
            if chosen.any():
                top.plot(rows["due"][chosen], latency[chosen], ".", markersize=2, label=label)
        top.axhline(1e3 * objective_s, color="black", linewidth=0.8, label="objective")
        top.set(yscale="log", ylabel="ms from the planned time")
        top.legend(loc="upper right")
        starts, answers, refusals = completions(run)
        bottom.step(starts, answers, where="post", label="200")
        bottom.step(starts, refusals, where="post", label="429, 503")
        bottom.set(xlabel="seconds, warm-up included", ylabel="per second", ylim=(0, None))
        bottom.legend(loc="upper right")
        for axes in (top, bottom):
            axes.axvline(load.warm_up, color="grey", linewidth=0.8)
        figure.suptitle(f"{load.mix}, {f'{load.rate:g}/s' if load.rate else f'{load.connections} connections'}")
