"""`python -m benchmarks.on_off DATA`: losses of equal training runs with and without our kernels.

A second run with kernels shows whether training is deterministic. A third raises the learning rate by 1e-5, which shows
the effect of the smallest perturbation; compare the run without kernels with it.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.measure import describe_machine, device
from kernels.runtime.dispatch import BACKEND_ENV
from training.data.loaders import open_loader
from training.distributed import Ranks
from training.recipes import RECIPES, Recipe
from training.runner import RunConfig, run_recipe
from training.schedule import Budget
from training.validation import Validator

RUNS = {"on": ("auto", 0.0), "on again": ("auto", 0.0), "nudged": ("auto", 1e-5), "off": ("reference", 0.0)}
LOG_EVERY = 10


def train(recipe: str, data: Path, steps: int, nudge: float, out: Path) -> None:
    """Train a recipe's first stage with clips in this process, on the backend of the environment."""
    whole = RECIPES[recipe]
    stage = next(stage for stage in whole.stages if stage.clip_batch_size)
    rate = stage.learning_rate * (1 + nudge)
    stage = replace(
        stage, unquantized_steps=0, warmup_steps=min(50, steps), resolutions=stage.resolutions[:1], learning_rate=rate
    )
    run = RunConfig(
        name="on-off",
        recipe=Recipe(whole.tokenizer, (stage,), seed=0),
        out=out,
        budgets={stage.name: Budget(steps=steps)},
        save_every=1e9,
        log_every=LOG_EVERY,
    )
    console = Console(file=sys.stdout, width=150)
    run_recipe(run, open_loader(data, device(), 0), device(), Ranks(), Validator({}, console), console)


def losses(out: Path) -> dict[int, float]:
    """Return the loss by step of a run."""
    (path,) = out.glob("*/metrics.csv")
    with path.open(encoding="utf-8") as lines:
        return {int(row["step"]): float(row["loss"]) for row in csv.DictReader(lines)}


def main() -> None:
    """Run each variant in its own process and print the losses."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="a data folder, as `omnitok data build` makes it")
    parser.add_argument("--recipe", choices=sorted(RECIPES), default="demo")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--out", type=Path, required=True, help="an output folder without earlier runs")
    parser.add_argument("--one", action="store_true", help="one run on the backend of the environment")
    parser.add_argument("--nudge", type=float, default=0.0, help="relative change of that run's learning rate")
    arguments = parser.parse_args()
    if arguments.one:
        train(arguments.recipe, arguments.data, arguments.steps, arguments.nudge, arguments.out)
        return
    print(describe_machine())
    found = {}
    for name, (backend, nudge) in RUNS.items():
        out = arguments.out / name.replace(" ", "-")
        call = [sys.executable, "-m", "benchmarks.on_off", str(arguments.data), "--recipe", arguments.recipe]
        call += ["--steps", str(arguments.steps), "--out", str(out), "--one", "--nudge", str(nudge)]
        subprocess.run(call, env=os.environ | {BACKEND_ENV: backend}, stdout=subprocess.DEVNULL, check=True)
        found[name] = losses(out)
    table = Table(title=f"loss of {arguments.recipe}, kernels on and off")
    others = [name for name in RUNS if name != "on"]
    for column in ("step", *RUNS, *(f"{name} - on" for name in others)):
        table.add_column(column, justify="right")
    for step, loss in found["on"].items():
        changes = (found[name][step] / loss - 1 for name in others)
        table.add_row(str(step), *(f"{run[step]:.5f}" for run in found.values()), *(f"{cell:+.2%}" for cell in changes))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
