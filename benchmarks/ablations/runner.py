"""Trains and measures what is missing of the ablations, several runs at a time, with a small record of each."""

from __future__ import annotations

import csv
import json
import math
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.ablations.held_out import HELD_OUT, load
from benchmarks.ablations.variants import Variant, batches, tokens, variants
from model.atomic_write import replace_file
from model.bundle import load_bundle
from training.card import code_version, machine_name
from training.checkpoint import read_checkpoint
from training.data.loaders.batch import Loader
from training.data.loaders.open_loader import open_loader
from training.devices import cores, resolve_device
from training.distributed import Ranks
from training.errors import TrainingError
from training.evaluation.datasets import PixelDataset
from training.evaluation.evaluate import score
from training.evaluation.suite import MetricSuite, NetworkPaths
from training.logging import METRICS_FILE
from training.processes import end_with_parent
from training.recipes import rename_settings
from training.runner import BUNDLE, RUN_FILE, RunConfig, run_recipe
from training.tokenizer.step import TrainingStep
from training.tokenizer.task import TokenizerTask

RECORD_FILE = "record.json"
FORMAT = "omnitok-reproduction/1"
LOG_LINES = 60  # of a stage's table
FINAL_LINES = 4  # of a kind, whose mean is the final loss


@dataclass(frozen=True)
class Job:
    """One training of one seed, and the measurement of its bundles.

    Args:
        name: of the variant.
        seed: of the recipe.
        steps: as for `variants`.
        data: folder of `omnitok data build demo`.
        networks: folder of `omnitok data networks`.
        out: folder of all runs.
        device: by name; CUDA where there is one if None.
        deadline: time since the epoch at which to stop with a checkpoint.
    """

    name: str
    seed: int
    steps: int
    data: Path
    networks: Path
    out: Path
    device: str | None = None
    deadline: float = math.inf

    @property
    def folder(self) -> Path:
        """Return the folder of the run."""
        return self.out / f"{self.name}-{self.seed}"

    @property
    def variant(self) -> Variant:
        """Return the recipe of the run and the stages to measure."""
        return variants(self.steps, self.seed)[self.name]


def run_all(jobs: Sequence[Job], parallel: int, console: Console) -> bool:
    """Run the jobs that have no record yet.

    Args:
        jobs: in the order in which they begin.
        parallel: processes that share the device; 1 stays in this one.
        console: for a line on each run that ends.

    Returns:
        Whether every job is done; if not, the same call goes on with what a deadline stopped.

    Raises:
        TrainingError: a run failed, or a folder holds a run of other settings.
    """
    if parallel < 1:
        raise TrainingError(f"parallel={parallel} must be at least one process.")
    waiting = [job for job in jobs if not is_done(job)]
    console.print(f"{len(jobs) - len(waiting)} of {len(jobs)} runs are done already", highlight=False)
    whole = True
    for job, done in _share(run_job, waiting, parallel):
        console.print(f"{job.folder.name}: {'done' if done else 'stopped; the same command goes on'}", highlight=False)
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
    if rename_settings(read_json(path)["recipe"]) != job.variant.recipe.to_dict():
        raise TrainingError(f"{job.folder} holds a run of other settings or steps: choose another folder.")
    return True


def run_job(job: Job) -> bool:
    """Train a variant, measure its bundles and write its record; return False if the deadline came first."""
    left = job.deadline - time.time()
    if left <= 0:
        return False
    device = resolve_device(job.device)
    stages = job.variant.recipe.stages
    run = RunConfig(
        name=job.name,
        recipe=job.variant.recipe,
        out=job.folder,
        resume=(job.folder / RUN_FILE).is_file(),
        stop_after=left,
        save_every=math.inf,
        log_every=max(1, min(stage.steps for stage in stages) // LOG_LINES),
        trained_on=("the sets of `omnitok data build demo`",),
    )
    # compiling for every variant and shape would take longer than training does
    with torch.compiler.set_stance("force_eager"):
        if not run_recipe(run, TokenizerTask(), _loader_of(job, device), device, Ranks(), console=Console(quiet=True)):
            return False
    replace_file(job.folder / RECORD_FILE, json.dumps(_record(job, run, device)).encode() + b"\n")
    return True


def read_json(path: Path) -> dict[str, Any]:
    """Read a record, or the file of all records.

    Raises:
        TrainingError: the file is missing, damaged or of another format.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrainingError(f"{path} holds no figures: {error}") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise TrainingError(f"{path} is not a file of format {FORMAT!r}.")
    return found


def gather(out: Path) -> dict[str, Any]:
    """Collect the records of all runs below a folder.

    Raises:
        TrainingError: none of the runs is done.
    """
    runs = [read_json(path) for path in sorted(out.glob(f"*/{RECORD_FILE}"))]
    if not runs:
        raise TrainingError(f"{out} holds no run that is done.")
    return {"format": FORMAT, "runs": runs}


def _share(work: Callable[[Job], bool], jobs: Sequence[Job], parallel: int) -> Iterator[tuple[Job, bool]]:
    """Yield each job with its result as it ends; an error cancels those that have not begun."""
    if parallel == 1:
        yield from ((job, work(job)) for job in jobs)
        return
    # PyTorch and numpy read this when a process starts: by default each would take all cores
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // parallel)))
    # spawned, not forked: a CUDA context does not survive a fork
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(parallel, mp_context=context, initializer=end_with_parent) as pool:
        futures = {pool.submit(work, job): job for job in jobs}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


# of this process: reading the data takes longer than a short run
_loaders: dict[tuple[Path, str, int], Loader] = {}
_suites: dict[tuple[Path, Path, str], tuple[MetricSuite, dict[str, PixelDataset]]] = {}


def _loader_of(job: Job, device: torch.device) -> Loader:
    key = job.data, str(device), job.seed
    if key not in _loaders:
        for loader in _loaders.values():
            loader.close()
        _loaders.clear()  # first, as the device may not hold the data twice
        _loaders[key] = open_loader(job.data, device, job.seed)
    return _loaders[key]


def _record(job: Job, run: RunConfig, device: torch.device) -> dict[str, Any]:
    recipe, keys = job.variant.recipe, TrainingStep.state_keys
    states = {stage: read_checkpoint(run.folder(stage), recipe.to_dict(), stage.name, keys) for stage in recipe.stages}
    return {
        "format": FORMAT,
        "variant": job.name,
        "seed": job.seed,
        "steps": sum(state["step"] for state in states.values()),
        "tokens": sum(tokens(recipe, batch) for batch in batches(recipe)),
        "seconds": round(sum(state["seconds"] for state in states.values()), 1),
        "final_loss": {stage.name: _final_loss(run.folder(stage) / METRICS_FILE) for stage in recipe.stages},
        "machine": machine_name(device),
        "commit": code_version(),
        "recipe": recipe.to_dict(),
        "figures": {name: _measure(job, run.folder(recipe.stage(name)), device) for name in job.variant.shown},
    }


def _final_loss(path: Path) -> dict[str, float]:
    """Average the last losses of a stage's table, by kind of batch."""
    losses: dict[str, list[float]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            losses.setdefault(row["kind"], []).append(float(row["loss"]))
    return {kind: round(sum(found[-FINAL_LINES:]) / len(found[-FINAL_LINES:]), 4) for kind, found in losses.items()}


def _measure(job: Job, folder: Path, device: torch.device) -> dict[str, dict[str, Any]]:
    """Measure a stage's bundle on the held-out sets of the kinds that its run trained on."""
    key = job.data, job.networks, str(device)
    if key not in _suites:
        sets = {held_out.name: load(held_out, job.data) for held_out in HELD_OUT}
        _suites[key] = MetricSuite(NetworkPaths(job.networks), device), sets
    suite, sets = _suites[key]
    tokenizer = load_bundle(folder / BUNDLE, device).tokenizer
    stages = job.variant.recipe.stages
    found = {}
    for held_out in HELD_OUT:
        if any(stage.image_batch_size if held_out.kind == "images" else stage.clip_batch_size for stage in stages):
            scores, _, _ = score(tokenizer, sets[held_out.name], suite)
            found[held_out.name] = {
                "items": scores.items,
                "PSNR": scores.psnr,
                "SSIM": scores.ssim,
                **({"usage": scores.codes["usage"]} if "usage" in scores.codes else {}),
                **{metric.name: metric.value for metric in scores.metrics},
                "half splits": {metric.name: metric.half_split for metric in scores.metrics},
            }
    return found
