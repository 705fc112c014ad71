"""A run: the stages of a recipe one after the other, each in its own folder, from the weights of the one before."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from model.atomic_write import replace_file
from model.bundle import CONFIG_FILE, Bundle, load_bundle, save_bundle
from model.tokenizer.config import TokenizerConfig, VQConfig
from model.tokenizer.tokenizer import OmniTokenizer
from training.card import machine_name, model_card
from training.checkpoint import CHECKPOINT_FILE, read_checkpoint
from training.data.loaders.batch import Loader
from training.distributed import Ranks
from training.errors import TrainingError
from training.networks.lpips import load_perceptual
from training.recipes import Recipe, Stage, rename_settings
from training.schedule import Budget, batch_at, batch_shapes, check_divisible
from training.tokenizer.head_transfer import transfer_head, with_head
from training.trainer import LOG_EVERY_STEPS, SAVE_EVERY_S, StageStart, Trainer, start_after

RUN_FILE = "run.json"
FORMAT = "omnitok-run/1"
BUNDLE = "bundle"


@dataclass(frozen=True)
class RunConfig:
    """The settings of a run: recipe, folder and start.

    Args:
        name: of the recipe.
        recipe: the stages.
        out: folder of the run; stage k has the folder `<k>-<stage>` in it.
        only_stage: the one stage to run, or None for all.
        init_bundle: bundle that the first stage to run begins from; its geometry wins over the recipe's.
        resume: go on with what the folder holds.
        budgets: lengths of stages by name; the recipe's, or those that the run was begun with, for all others.
        stop_after: seconds of training after which to stop with a checkpoint.
        save_every: seconds between checkpoints.
        log_every: steps between rows of the table.
        perceptual_weights: file of the network of the perceptual distance.
        trained_on: sentences that say what the data is, for the model card.
    """

    name: str
    recipe: Recipe
    out: Path
    only_stage: str | None = None
    init_bundle: Path | None = None
    resume: bool = False
    budgets: Mapping[str, Budget] = field(default_factory=dict)
    stop_after: float = math.inf
    save_every: float = SAVE_EVERY_S
    log_every: int = LOG_EVERY_STEPS
    perceptual_weights: Path | None = None
    trained_on: tuple[str, ...] = ()

    def folder(self, stage: Stage) -> Path:
        """Return the folder of a stage."""
        return self.out / f"{self.recipe.stages.index(stage) + 1}-{stage.name}"

    def has_begun(self, stage: Stage) -> bool:
        """Return whether a stage has a checkpoint, as every stage has from its start."""
        return (self.folder(stage) / CHECKPOINT_FILE).is_file()

    def is_done(self, stage: Stage) -> bool:
        """Return whether a stage has written its bundle, which it does last."""
        return (self.folder(stage) / BUNDLE / CONFIG_FILE).is_file()


def run_recipe(
    run: RunConfig,
    loader: Loader,
    device: torch.device,
    ranks: Ranks,
    on_checkpoint: Callable[[Trainer], None] | None = None,
    console: Console | None = None,
) -> bool:
    """Train the stages of a run that are not done.

    Args:
        run: the settings.
        loader: the data.
        device: of this process.
        ranks: the processes that train together.
        on_checkpoint: as for `Trainer.run`.
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
    bundle = load_bundle(run.init_bundle) if run.init_bundle is not None else None
    if bundle is not None:
        run = replace(run, recipe=_adopt_geometry(run.recipe, bundle))
    wanted = [stage for stage in run.recipe.stages if run.only_stage in (None, stage.name)]
    waiting = [stage for stage in wanted if not run.is_done(stage)]
    run = _check_run(run, bundle, waiting)
    for stage in waiting:
        check_divisible(stage, ranks.world)
    perceptual = {
        stage.name: load_perceptual(stage.losses.perceptual_network, run.perceptual_weights, device)
        for stage in waiting
    }
    ranks.barrier()  # until every rank has seen the folder as it was
    if waiting and ranks.is_main:
        _write_run(run, bundle)
    for stage in wanted:
        if stage not in waiting:
            console.print(f"stage {stage.name} is done: {run.folder(stage) / BUNDLE}", highlight=False)
            continue
        for batch in batch_shapes(stage):
            loader.check(batch)
        begun_before = run.has_begun(stage)
        ranks.barrier()  # until every rank has seen whether the stage was begun, which rank 0 changes
        start = _stage_start(run, stage, loader, bundle if stage is wanted[0] else None, device, ranks)
        trainer = Trainer(run.recipe, stage, start, loader, run.folder(stage), ranks, perceptual[stage.name])
        if begun_before:
            trainer.resume()
        budget = run.budgets.get(stage.name) or trainer.budget or Budget(stage.steps)
        left = run.stop_after - (time.monotonic() - begun)
        if not trainer.run(budget, left, run.save_every, run.log_every, on_checkpoint, console):
            console.print(f"stopped at step {trainer.step} of stage {stage.name}; --resume goes on", highlight=False)
            return False
        if ranks.is_main:
            _write_bundles(run, trainer, console)
        ranks.barrier()  # the next stage reads what rank 0 wrote
    return True


def _adopt_geometry(recipe: Recipe, bundle: Bundle) -> Recipe:
    """Return the recipe with a bundle's geometry; a VAE has no codebook, so the recipe says its size."""
    assert isinstance(recipe.tokenizer.head, VQConfig)
    head = bundle.config.head
    if not isinstance(head, VQConfig):
        head = VQConfig(recipe.tokenizer.head.codes, head.dim)
    return replace(recipe, tokenizer=replace(bundle.config, head=head))


def _check_run(run: RunConfig, bundle: Bundle | None, waiting: list[Stage]) -> RunConfig:
    """Refuse to mix runs in a folder; take over the budgets and the geometry that a run was begun with."""
    path = run.out / RUN_FILE
    if not path.is_file():
        if run.resume:
            raise TrainingError(f"{run.out} holds no run to resume: it has no {RUN_FILE}")
        return run
    record = _read_run(path)
    if bundle is None and record["source"] is not None:
        geometry = record["recipe"]["tokenizer"]
        run = replace(run, recipe=replace(run.recipe, tokenizer=TokenizerConfig.from_dict(geometry)))
    if (record["name"], record["recipe"]) != (run.name, run.recipe.to_dict()):
        raise TrainingError(
            f"{run.out} holds a run of another recipe, {record['name']}, or of this one before it was changed: "
            "choose another folder"
        )
    if bundle is not None and record["source"] not in (None, bundle.hash):
        raise TrainingError(f"{run.out} was begun from bundle {record['source'][:12]}, not {bundle.hash[:12]}")
    begun = [stage.name for stage in waiting if run.has_begun(stage)]
    if begun and not run.resume:
        raise TrainingError(f"{run.out} holds a run already, with stage {begun[0]} begun: resume it or choose another")
    kept = {name: Budget(**length) for name, length in record["lengths"].items()}
    for name in begun:
        length = kept.get(name) or Budget(run.recipe.stage(name).steps)
        if run.budgets.get(name, length) != length:
            raise TrainingError(
                f"stage {name} in {run.out} was begun as a run of {length}, not of {run.budgets[name]}: "
                "resume it with its own length"
            )
    return replace(run, budgets=kept | dict(run.budgets))


def _read_run(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TrainingError(f"{path} is damaged: {error}") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise TrainingError(f"{path} does not describe a run of format {FORMAT!r}")
    return record | {"recipe": rename_settings(record["recipe"])}


def _write_run(run: RunConfig, bundle: Bundle | None) -> None:
    """Write the record of the run in its folder; the bundle that it was begun from stays."""
    record = {
        "format": FORMAT,
        "name": run.name,
        "recipe": run.recipe.to_dict(),
        "source": _bundle_hash(run) or (bundle.hash if bundle is not None else None),
        "lengths": {name: asdict(budget) for name, budget in run.budgets.items()},
    }
    run.out.mkdir(parents=True, exist_ok=True)
    replace_file(run.out / RUN_FILE, json.dumps(record, indent=2).encode() + b"\n")


def _stage_start(
    run: RunConfig, stage: Stage, loader: Loader, bundle: Bundle | None, device: torch.device, ranks: Ranks
) -> StageStart:
    """Load the start of a stage: its own checkpoint, a bundle, the stage before it, or random weights."""
    recipe, config = run.recipe, with_head(run.recipe.tokenizer, stage.head)
    index = recipe.stages.index(stage)
    torch.manual_seed(recipe.seed)
    if run.has_begun(stage) or (index == 0 and bundle is None):
        if not run.has_begun(stage) and (hash_ := _bundle_hash(run)):
            raise TrainingError(f"{run.out} was begun from bundle {hash_[:12]}: name it again")
        return StageStart(OmniTokenizer(config).to(device))
    if bundle is not None:
        source = bundle.tokenizer
        taken = StageStart(
            source,
            codebook_initialized=source.config.is_vq,
            history=(f"begun from the bundle {bundle.name}, {bundle.hash[:12]}",),
        )
    else:
        before = recipe.stages[index - 1]
        if not run.is_done(before):
            raise TrainingError(
                f"stage {stage.name} begins from a bundle or from the stage before it, {before.name}, which "
                f"{run.out} has not done"
            )
        source = OmniTokenizer(with_head(recipe.tokenizer, before.head))
        taken = start_after(read_checkpoint(run.folder(before), recipe.to_dict(), before.name), source)
    source.to(device)
    pixels = next(iter(loader.stream([batch_at(stage, recipe.seed, 1, taken.drawn)])))
    tokenizer = transfer_head(source, config, pixels, ranks)
    return replace(taken, tokenizer=tokenizer, codebook_initialized=taken.codebook_initialized and config.is_vq)


def _bundle_hash(run: RunConfig) -> str | None:
    """Return the hash of the bundle that a run was begun from."""
    path = run.out / RUN_FILE
    return _read_run(path)["source"] if path.is_file() else None


def _write_bundles(run: RunConfig, trainer: Trainer, console: Console) -> None:
    """Write the bundle of a stage, which marks it as done, and that of the run after the last stage with its head."""
    stage, recipe = trainer.stage, run.recipe
    name = f"{run.name}-{stage.head}"
    later = recipe.stages[recipe.stages.index(stage) + 1 :]
    paths = [run.folder(stage) / BUNDLE]
    if all(other.head != stage.head for other in later):
        paths.insert(0, run.out / name)
    config = trainer.state.ema.config
    card = model_card(name, recipe, config, trainer.history(), machine_name(trainer.device), run.trained_on)
    for path in paths:
        try:
            save_bundle(path, trainer.state.ema, card, licence=recipe.licence, dtype=torch.float16)
        except OSError as error:
            raise TrainingError(f"{path} takes no bundle: {error}; the checkpoint of the stage is whole") from error
        console.print(f"wrote {path}", highlight=False)
