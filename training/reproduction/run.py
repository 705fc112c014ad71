"""Runs what is missing of the trainings, several at a time, and keeps a small record of each."""

from __future__ import annotations

import csv
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from training.card import code_version, machine_name
from training.checkpoint import read_checkpoint
from training.data.loaders import open_feed
from training.data.loaders.draw import Feed
from training.data.shards import replace_file
from training.devices import device_of
from training.distributed import Ranks
from training.errors import TrainingError
from training.logging import METRICS_FILE
from training.recipes import Stage
from training.reproduction.process_pool import share
from training.reproduction.variants import Variant, batches, tokens, variants
from training.runner import RUN_FILE, Plan, run_recipe

RECORD_FILE = "record.json"
FORMAT = "omnitok-reproduction/1"
POINTS = 60  # of a stage's curves; lines of its table
LAST = 4  # lines of a kind whose mean is the final loss
Curve = dict[str, list[float]]


@dataclass(frozen=True)
class Job:
    """One training of one seed.

    Args:
        name: of the variant.
        seed: of the recipe.
        steps: as for `variants`.
        data: folder of the data.
        out: folder of the reproduction; the run has the folder `<variant>-<seed>` in it.
        device: by name; CUDA where there is one if None.
        deadline: time since the epoch at which to stop with a checkpoint.
    """

    name: str
    seed: int
    steps: int
    data: Path
    out: Path
    device: str | None = None
    deadline: float = math.inf

    @property
    def folder(self) -> Path:
        """Of the run."""
        return self.out / f"{self.name}-{self.seed}"

    @property
    def variant(self) -> Variant:
        """Return the recipe of the run."""
        return variants(self.steps, self.seed)[self.name]


def run_all(jobs: Sequence[Job], parallel: int, console: Console) -> bool:
    """Run jobs, those that are done excepted.

    Args:
        jobs: in the order in which they are begun.
        parallel: processes that share the device.
        console: is told of each run that ends.

    Returns:
        Whether every job is done; if not, the same call goes on with what a deadline stopped.

    Raises:
        TrainingError: a run failed, or a folder holds a run of other settings.
    """
    waiting = [job for job in jobs if not is_done(job)]
    if len(waiting) < len(jobs):
        console.print(f"{len(jobs) - len(waiting)} of {len(jobs)} runs are done already", highlight=False)
    whole = True
    for job, done in share(run_job, waiting, parallel):
        told = f"{read_record(job.folder / RECORD_FILE)['seconds']} s" if done else "stopped; the same command goes on"
        console.print(f"{job.folder.name}: {told}", highlight=False)
        whole &= done
    return whole


def is_done(job: Job) -> bool:
    """Return whether a run has its record.

    Raises:
        TrainingError: the record is of other settings.
    """
    path = job.folder / RECORD_FILE
    if not path.is_file():
        return False
    if read_record(path)["recipe"] != job.variant.recipe.to_dict():
        raise TrainingError(f"{job.folder} holds a run of other settings or steps: choose another folder")
    return True


def run_job(job: Job) -> bool:
    """Train one variant through its stages and write its record; False if the deadline came first."""
    left = job.deadline - time.time()
    if left <= 0:
        return False
    device = device_of(job.device)
    variant = job.variant
    plan = Plan(
        name=job.name,
        recipe=variant.recipe,
        out=job.folder,
        resume=(job.folder / RUN_FILE).is_file(),
        stop_after=left,
        save_every=math.inf,
        log_every=_log_every(variant.recipe.stages),
        trained_on=("the sets of `omnitok data build demo`",),
    )
    feed = _feed(job, device)
    # compiling for every variant and shape would take longer than training does
    with torch.compiler.set_stance("force_eager"):
        if not run_recipe(plan, feed, device, Ranks(), console=Console(quiet=True)):
            return False
    record = _record(job, plan, device)
    replace_file(job.folder / RECORD_FILE, json.dumps(record).encode() + b"\n")
    return True


def read_record(path: Path) -> dict[str, Any]:
    """A run's record.

    Raises:
        TrainingError: the file is not a record.
    """
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TrainingError(f"{path} is damaged: {error}") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise TrainingError(f"{path} is not a record of format {FORMAT!r}")
    return record


_opened: dict[tuple[Path, str, int], Feed] = {}  # of this process: reading the data takes longer than starting a run


def _feed(job: Job, device: torch.device) -> Feed:
    key = job.data, str(device), job.seed
    if key not in _opened:
        for feed in _opened.values():
            feed.close()
        _opened.clear()  # first, as the device may not hold the data twice
        _opened[key] = open_feed(job.data, device, job.seed)
    return _opened[key]


def _log_every(stages: Sequence[Stage]) -> int:
    """Odd, so that lines take turns between images and clips as steps do."""
    return max(1, min(stage.steps for stage in stages) // POINTS) | 1


def _record(job: Job, plan: Plan, device: torch.device) -> dict[str, Any]:
    recipe = plan.recipe
    stages = {}
    for stage in recipe.stages:
        state = read_checkpoint(plan.folder(stage), recipe.to_dict(), stage.name)
        curves = _curves(plan.folder(stage) / METRICS_FILE)
        stages[stage.name] = {
            "steps": state["step"],
            "seconds": round(state["seconds"], 1),
            "final_loss": {kind: _final(curve) for kind, curve in curves.items()},
            "curves": curves,
        }
    return {
        "format": FORMAT,
        "variant": job.name,
        "seed": job.seed,
        "steps": sum(stage["steps"] for stage in stages.values()),
        "tokens": sum(tokens(recipe, draw) for draw in batches(recipe)),
        "seconds": round(sum(stage["seconds"] for stage in stages.values()), 1),
        "machine": machine_name(device),
        "commit": code_version(),
        "recipe": recipe.to_dict(),
        "shown": list(job.variant.shown),
        "stages": stages,
    }


def _curves(path: Path) -> dict[str, Curve]:
    """The columns of a stage's table by kind of batch: number of the step, PSNR of the batch in decibels, loss."""
    curves: dict[str, Curve] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            curve = curves.setdefault(row["kind"], {"step": [], "psnr": [], "loss": []})
            curve["step"].append(int(row["step"]))
            curve["psnr"].append(round(float(row["psnr"]), 2))
            curve["loss"].append(round(float(row["loss"]), 4))
    return curves


def _final(curve: Curve) -> float:
    """Mean loss of the last lines."""
    last = curve["loss"][-LAST:]
    return round(sum(last) / len(last), 4)
