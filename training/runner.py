"""A run: the stages of a recipe one after the other, each in its own folder, from the weights of the one before."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from rich.console import Console

from model.atomic_write import replace_file
from model.bundle_files import CONFIG_FILE
from training.budget import Budget
from training.checkpoint import CHECKPOINT_FILE
from training.data.loaders.batch import Kind, Loader
from training.distributed import Ranks
from training.errors import TrainingError
from training.recipes import AnyRecipe, AnyStage, rename_settings
from training.schedule import batch_shapes, check_divisible
from training.step import Step
from training.trainer import LOG_EVERY_STEPS, SAVE_EVERY_S, Trainer

RUN_FILE = "run.json"
FORMAT = "omnitok-run/1"
BUNDLE = "bundle"
LATEST = "latest"  # bundle of a stage that is not done


@dataclass(frozen=True)
class RunConfig:
    """The settings of a run: recipe, folder and start.

    Args:
        name: of the recipe.
        recipe: the stages.
        out: folder of the run; stage k has the folder `<k>-<stage>` in it.
        only_stage: the one stage to run, or None for all.
        resume: go on with what the folder holds.
        budgets: lengths of stages by name; the recipe's, or those that the run was begun with, for all others.
        stop_after: seconds of training after which to stop with a checkpoint.
        save_every: seconds between checkpoints.
        log_every: steps between rows of the table.
        trained_on: sentences that say what the data is, for the model card.
    """

    name: str
    recipe: AnyRecipe
    out: Path
    only_stage: str | None = None
    resume: bool = False
    budgets: Mapping[str, Budget] = field(default_factory=dict)
    stop_after: float = math.inf
    save_every: float = SAVE_EVERY_S
    log_every: int = LOG_EVERY_STEPS
    trained_on: tuple[str, ...] = ()

    def folder(self, stage: AnyStage) -> Path:
        """Return the folder of a stage."""
        return self.out / f"{self.recipe.stages.index(stage) + 1}-{stage.name}"

    def has_begun(self, stage: AnyStage) -> bool:
        """Return whether a stage has a checkpoint, as every stage has from its start."""
        return (self.folder(stage) / CHECKPOINT_FILE).is_file()

    def is_done(self, stage: AnyStage) -> bool:
        """Return whether a stage has written its bundle, which it does last."""
        return (self.bundle(stage) / CONFIG_FILE).is_file()

    def bundle(self, stage: AnyStage) -> Path:
        """Return the folder of a stage's bundle."""
        return self.folder(stage) / BUNDLE


class StartedStage(NamedTuple):
    """A stage that is ready to run.

    Args:
        step: trains on a batch.
        drawn: items of each kind that the run has drawn before.
        history: sentences on what came before, for the model card.
    """

    step: Step
    drawn: dict[Kind, int]
    history: tuple[str, ...]


class Task(Protocol):
    """The part of a run that knows the network: its geometry, its steps and its bundles.

    Attributes:
        source: content hash of the bundle that the run was begun from, or None.
    """

    source: str | None

    def adopt(self, run: RunConfig, record: dict[str, Any] | None) -> RunConfig:
        """Return the run with the geometry that its data, its bundle or the record of its folder gives."""

    def load(self, waiting: Sequence[AnyStage], device: torch.device) -> None:
        """Load what the stages need in addition to data, so that a missing file shows before the first step."""

    def start(
        self, run: RunConfig, stage: AnyStage, first: bool, loader: Loader, device: torch.device, ranks: Ranks
    ) -> StartedStage:
        """Build the step of a stage; `first` names the first stage of this call."""

    def write_bundle(self, run: RunConfig, trainer: Trainer, path: Path) -> None:
        """Write the averaged weights of a stage as a bundle."""

    def run_bundle(self, run: RunConfig, stage: AnyStage) -> Path | None:
        """Return the folder of the run's bundle that a stage is the last to change; None for other stages."""


def run_recipe(
    run: RunConfig,
    task: Task,
    loader: Loader,
    device: torch.device,
    ranks: Ranks,
    validate: Callable[[Trainer], None] | None = None,
    console: Console | None = None,
) -> bool:
    """Train the stages of a run that are not done.

    Args:
        run: the settings.
        task: what is trained.
        loader: the data.
        device: of this process.
        ranks: the processes that train together.
        validate: as for `Trainer.run`.
        console: for progress.

    Returns:
        Whether every stage is done; if not, the run was stopped and can be resumed.

    Raises:
        TrainingError: the folder holds another run or one that is to be resumed, a stage has nothing to begin from, or
            whatever stops a stage.
        BundleError: the source is not a bundle.
    """
    console = console or Console(stderr=True, quiet=not ranks.is_main, soft_wrap=True)
    begun = time.monotonic()
    record = _read_run(run.out)
    run = task.adopt(run, record)
    wanted = [stage for stage in run.recipe.stages if run.only_stage in (None, stage.name)]
    waiting = [stage for stage in wanted if not run.is_done(stage)]
    run = _check_run(run, task, record, waiting)
    for stage in waiting:
        check_divisible(stage, ranks.world)
    task.load(waiting, device)
    ranks.barrier()  # until every rank has seen the folder as it was
    if waiting and ranks.is_main:
        _write_run(run, task)
    for stage in wanted:
        if stage not in waiting:
            console.print(f"stage {stage.name} is done: {run.bundle(stage)}", highlight=False)
            continue
        for batch in batch_shapes(stage):
            loader.check(batch)
        begun_before = run.has_begun(stage)
        started = task.start(run, stage, stage is wanted[0], loader, device, ranks)
        ranks.barrier()  # until every rank has seen whether the stage was begun, which rank 0 changes
        folder = run.folder(stage)
        trainer = Trainer(run.recipe, stage, started.step, loader, folder, ranks, started.drawn, started.history)
        if begun_before:
            trainer.resume()
        budget = run.budgets.get(stage.name) or trainer.budget or Budget(stage.steps)
        left = run.stop_after - (time.monotonic() - begun)
        latest = folder / LATEST

        def write_latest(trainer: Trainer, latest: Path = latest) -> None:
            _write_bundles(run, task, trainer, [latest])  # before validation, during which a run may be killed

        if not trainer.run(budget, left, run.save_every, run.log_every, write_latest, console, validate):
            console.print(f"stopped at step {trainer.step} of stage {stage.name}; --resume goes on", highlight=False)
            return False
        if ranks.is_main:
            # the stage's own bundle marks it as done, so it comes last
            paths = [path for path in (task.run_bundle(run, stage), run.bundle(stage)) if path is not None]
            _write_bundles(run, task, trainer, paths)
            shutil.rmtree(latest, ignore_errors=True)
            for path in paths:
                console.print(f"wrote {path}", highlight=False)
        ranks.barrier()  # the next stage reads what rank 0 wrote
        if trainer.interrupted and stage is not wanted[-1]:
            console.print(f"stopped after stage {stage.name}; --resume goes on", highlight=False)
            return False
    return True


def _write_bundles(run: RunConfig, task: Task, trainer: Trainer, paths: Sequence[Path]) -> None:
    """Write the averaged weights of a stage as bundles."""
    try:
        for path in paths:
            task.write_bundle(run, trainer, path)
    except OSError as error:
        raise TrainingError(f"{run.out} takes no bundle, and the checkpoint of the stage is whole: {error}") from error


def _check_run(run: RunConfig, task: Task, record: dict[str, Any] | None, waiting: Sequence[AnyStage]) -> RunConfig:
    """Refuse to mix runs in a folder; take over the budgets that a run was begun with."""
    if record is None:
        if run.resume:
            raise TrainingError(f"{run.out} holds no run to resume: it has no {RUN_FILE}.")
        return run
    if (record["name"], record["recipe"]) != (run.name, run.recipe.to_dict()):
        raise TrainingError(
            f"{run.out} holds a run of another recipe, {record['name']}, or of this one before it was changed: "
            "choose another folder."
        )
    if record["source"] is not None and task.source != record["source"]:
        raise TrainingError(f"{run.out} was begun from bundle {record['source'][:12]}, not {str(task.source)[:12]}.")
    begun = [stage.name for stage in waiting if run.has_begun(stage)]
    if begun and not run.resume:
        raise TrainingError(f"{run.out} holds a run already, with stage {begun[0]} begun: resume it or choose another.")
    kept = {name: Budget(**length) for name, length in record["lengths"].items()}
    for name in begun:
        length = kept.get(name) or Budget(run.recipe.stage(name).steps)
        if run.budgets.get(name, length) != length:
            raise TrainingError(
                f"Stage {name} in {run.out} was begun as a run of {length}, not of {run.budgets[name]}: "
                "resume it with its own length."
            )
    return replace(run, budgets=kept | dict(run.budgets))


def _read_run(out: Path) -> dict[str, Any] | None:
    """Return the record of the run in a folder; None where there is none."""
    path = out / RUN_FILE
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TrainingError(f"{path} is damaged: {error}") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise TrainingError(f"{path} does not describe a run of format {FORMAT!r}.")
    return record | {"recipe": rename_settings(record["recipe"])}


def _write_run(run: RunConfig, task: Task) -> None:
    """Write the record of the run in its folder."""
    record = {
        "format": FORMAT,
        "name": run.name,
        "recipe": run.recipe.to_dict(),
        "source": task.source,
        "lengths": {name: asdict(budget) for name, budget in run.budgets.items()},
    }
    run.out.mkdir(parents=True, exist_ok=True)
    replace_file(run.out / RUN_FILE, json.dumps(record, indent=2).encode() + b"\n")
