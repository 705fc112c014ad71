"""`python -m benchmarks.on_off DATA`: the same training steps with our kernels, once more, and without them.

Two runs with kernels give the noise of a run; the distance to the run without is read against it.
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
from kernels.dispatch import ENVIRONMENT
from training.distributed import Ranks
from training.feeds import open_feed
from training.recipes import RECIPES, Recipe
from training.schedule import Budget
from training.stages import Plan, run_recipe
from training.watch import Watch

RUNS = {"on": "auto", "on again": "auto", "off": "reference"}
LOG_EVERY = 10


def train(recipe: str, data: Path, steps: int, out: Path) -> None:
    """Train a recipe's first stage that uses clips, in this process, on the backend that the environment names."""
    whole = RECIPES[recipe]
    stage = next(stage for stage in whole.stages if stage.clips)
    stage = replace(stage, plain=0, warmup=min(50, steps), sides=stage.sides[:1])
    plan = Plan(
        name="on-off",
        recipe=Recipe(whole.tokenizer, (stage,), seed=0),
        out=out,
        lengths={stage.name: Budget(steps=steps)},
        save_every=1e9,
        log_every=LOG_EVERY,
    )
    console = Console(file=sys.stdout, width=150)
    run_recipe(plan, open_feed(data, device(), 0), device(), Ranks(), Watch({}, console), console)


def losses(out: Path) -> dict[int, float]:
    """Step to loss of a run."""
    (path,) = out.glob("*/metrics.csv")
    with path.open(encoding="utf-8") as lines:
        return {int(row["step"]): float(row["loss"]) for row in csv.DictReader(lines)}


def main() -> None:
    """Run all three, each in a process of its own, and print their losses."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="a data folder, as `omnitok data build` makes it")
    parser.add_argument("--recipe", choices=sorted(RECIPES), default="demo")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--out", type=Path, required=True, help="a folder for the runs; it must not hold any")
    parser.add_argument("--one", action="store_true", help="a single run on the backend of the environment")
    arguments = parser.parse_args()
    if arguments.one:
        train(arguments.recipe, arguments.data, arguments.steps, arguments.out)
        return
    print(describe_machine())
    found = {}
    for name, backend in RUNS.items():
        out = arguments.out / name.replace(" ", "-")
        call = [sys.executable, "-m", "benchmarks.on_off", str(arguments.data), "--recipe", arguments.recipe]
        call += ["--steps", str(arguments.steps), "--out", str(out), "--one"]
        subprocess.run(call, env=os.environ | {ENVIRONMENT: backend}, stdout=subprocess.DEVNULL, check=True)
        found[name] = losses(out)
    table = Table(title=f"loss of {arguments.recipe}, kernels on and off")
    for column in ("step", *RUNS, "on again - on", "off - on"):
        table.add_column(column, justify="right")
    for step, loss in found["on"].items():
        again, off = found["on again"][step], found["off"][step]
        cells = (loss, again, off, again / loss - 1, off / loss - 1)
        table.add_row(str(step), *(f"{cell:.5f}" for cell in cells[:3]), *(f"{cell:+.2%}" for cell in cells[3:]))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
