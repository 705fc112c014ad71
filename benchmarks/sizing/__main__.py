"""`python -m benchmarks.sizing`: the autoscaling policy against steps, days and bursts, by start-up time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Annotated

import matplotlib.pyplot as plt
import typer

from benchmarks.rows import markdown_table
from benchmarks.sizing.cluster import Second, simulate
from benchmarks.sizing.loads import HOUR, SCENARIOS, Scenario

app = typer.Typer(help=__doc__, pretty_exceptions_enable=False, add_completion=False)
START_SECONDS = (30, 60, 240)  # with kernels at hand, without them, with a new machine
MAX_REPLICAS = 16


@app.command()
def main(
    plot: Annotated[Path | None, typer.Option(help="File of the plot.")] = None,
) -> None:
    """Print a table of every scenario and start-up time."""
    columns = ("load", "a replica takes, s", "refused", "longest refusing, s", "p99 wait, s", "replica-hours", "fixed")
    runs = product(SCENARIOS, START_SECONDS)
    rows = (row(scenario, start, simulate(scenario, start, MAX_REPLICAS)) for scenario, start in runs)
    for line in markdown_table(columns, rows):
        print(line, flush=True)
    if plot is not None:
        draw(plot)


def row(scenario: Scenario, start: int, seconds: Sequence[Second]) -> tuple[object, ...]:
    """Return a row of the table; "fixed" are the hours of as many replicas as the peak needs."""
    refused = sum(one.refused for one in seconds) / sum(one.load for one in seconds)
    longest = run = 0
    for one in seconds:
        run = run + 1 if one.refused else 0
        longest = max(longest, run)
    wait = sorted(one.wait for one in seconds)[int(0.99 * len(seconds))]
    hours = sum(one.target for one in seconds) / HOUR
    fixed = math.ceil(max(one.load for one in seconds)) * len(seconds) / HOUR
    return scenario.title, start, f"{refused:.2%}", longest, f"{wait:.2f}", f"{hours:.1f}", f"{fixed:.1f}"


def draw(path: Path) -> None:
    """Draw the step for each start-up time, and the day with bursts."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4))
    for start, colour in zip(START_SECONDS, ("tab:green", "tab:orange", "tab:red"), strict=True):
        seconds = simulate(SCENARIOS[0], start, MAX_REPLICAS)
        minutes = [number / 60 for number in range(len(seconds))]
        left.plot(minutes, [one.ready for one in seconds], colour, label=f"ready, a replica takes {start} s")
        refused = [number / 60 for number, one in enumerate(seconds) if one.refused]
        left.plot(refused, [0.1 * (1 + START_SECONDS.index(start))] * len(refused), "|", color=colour)
    left.plot(minutes, [one.load for one in seconds], "k", linewidth=1, label="load, in replicas")
    left.set_ylim(0, 8)
    left.set(title="a step; marks below: seconds with refusals", xlabel="minutes", ylabel="replicas", xlim=(5, 50))
    left.legend(loc="upper right")
    seconds = simulate(SCENARIOS[-1], 60, MAX_REPLICAS)
    hours = [number / HOUR for number in range(len(seconds))]
    right.plot(hours, [one.load for one in seconds], "k", linewidth=0.6, label="load, in replicas")
    right.plot(hours, [one.ready for one in seconds], "tab:orange", label="ready, a replica takes 60 s")
    right.set(title="a day with bursts", xlabel="hours", ylabel="replicas", ylim=(0, 20))
    right.legend(loc="upper left")
    figure.tight_layout()
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    app()
