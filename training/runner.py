"""A run: the stages of a recipe one after the other, each in a folder of its own, weights handed on."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from model.bundle import CONFIG_FILE, Bundle, load_bundle, save_bundle
from model.tokenizer.config import TokenizerConfig, VQConfig
from model.tokenizer.tokenizer import OmniTokenizer
from training.atomic_write import replace_file
from training.card import machine_name, model_card
from training.checkpoint import CHECKPOINT_FILE, read_checkpoint
from training.data.loaders.draw import Feed
from training.distributed import Ranks
from training.errors import TrainingError
from training.head_transfer import hand_over, with_head
from training.losses.perceptual import Perceptual, perceptual_loss
from training.recipes import Recipe, Stage
from training.schedule import Budget, check_shares, draw_of, every_draw
from training.trainer import LOG_EVERY, SAVE_EVERY, Start, Trainer, finished

RUN_FILE = "run.json"
FORMAT = "omnitok-run/1"
BUNDLE = "bundle"


@dataclass(frozen=True)
class Plan:
    """The plan of a run: recipe, folder and start.

    Args:
        name: of the recipe.
        recipe: the stages.
        out: folder of the run; stage k has the folder `<k>-<stage>` in it.
        only: the one stage to run, or None for all.
        source: bundle that the first stage to run begins from; its geometry wins over the recipe's.
        resume: go on with what the folder holds.
        lengths: of stages by name; the recipe's, or those that the run was begun with, for all others.
        stop_after: seconds of training after which to stop with a checkpoint.
        save_every: seconds between checkpoints.
        log_every: steps between lines of the table.
        perceptual_weights: of the network that measures the perceptual distance.
        trained_on: sentences that say what the data is, for the model card.
    """

    name: str
    recipe: Recipe
    out: Path
    only: str | None = None
    source: Path | None = None
    resume: bool = False
    lengths: Mapping[str, Budget] = field(default_factory=dict)
    stop_after: float = math.inf
    save_every: float = SAVE_EVERY
    log_every: int = LOG_EVERY
    perceptual_weights: Path | None = None
    trained_on: tuple[str, ...] = ()

    def folder(self, stage: Stage) -> Path:
        """Folder of a stage."""
        return self.out / f"{self.recipe.stages.index(stage) + 1}-{stage.name}"

    def has_begun(self, stage: Stage) -> bool:
        """Return whether a stage has a checkpoint, as every stage has from its start."""
        return (self.folder(stage) / CHECKPOINT_FILE).is_file()

    def is_done(self, stage: Stage) -> bool:
        """Return whether a stage has written its bundle, which it does last."""
        return (self.folder(stage) / BUNDLE / CONFIG_FILE).is_file()


def run_recipe(
    plan: Plan,
    feed: Feed,
    device: torch.device,
    ranks: Ranks,
    observe: Callable[[Trainer], None] | None = None,
    console: Console | None = None,
) -> bool:
    """Run the stages of a plan that are not done.

    Args:
        plan: what and where.
        feed: the data.
        device: of this process.
        ranks: the processes that train together.
        observe: as for `Trainer.run`.
        console: where is told what happens.

    Returns:
        Whether every stage of the plan is done; if not, the run was stopped and can be resumed.

    Raises:
        TrainingError: the folder holds another run or one that is to be resumed, a stage has nothing to begin from, or
            whatever stops a stage.
        BundleError: the source is not a bundle.
    """
    console = console or Console(stderr=True, quiet=not ranks.writes, soft_wrap=True)
    begun = time.monotonic()
    bundle = load_bundle(plan.source) if plan.source is not None else None
    if bundle is not None:
        plan = replace(plan, recipe=_fit(plan.recipe, bundle))
    wanted = [stage for stage in plan.recipe.stages if plan.only in (None, stage.name)]
    waiting = [stage for stage in wanted if not plan.is_done(stage)]
    plan = _check_run(plan, bundle, waiting)
    for stage in waiting:
        check_shares(stage, ranks.world)
    perceptual = {stage.name: _perceptual(plan, stage, device) for stage in waiting}
    ranks.wait()  # until every rank has seen the folder as it was
    if waiting and ranks.writes:
        _write_run(plan, bundle)
    for stage in wanted:
        if stage not in waiting:
            console.print(f"stage {stage.name} is done: {plan.folder(stage) / BUNDLE}", highlight=False)
            continue
        for draw in every_draw(stage):
            feed.check(draw)
        begun_before = plan.has_begun(stage)
        ranks.wait()  # until every rank has seen whether the stage was begun, which rank 0 changes
        start = _start(plan, stage, feed, bundle if stage is wanted[0] else None, device, ranks)
        trainer = Trainer(plan.recipe, stage, start, feed, plan.folder(stage), ranks, perceptual[stage.name])
        if begun_before:
            trainer.resume()
        budget = plan.lengths.get(stage.name) or trainer.budget or Budget(stage.steps)
        left = plan.stop_after - (time.monotonic() - begun)
        if not trainer.run(budget, left, plan.save_every, plan.log_every, observe, console):
            console.print(f"stopped at step {trainer.step} of stage {stage.name}; --resume goes on", highlight=False)
            return False
        if ranks.writes:
            _write_bundles(plan, trainer, console)
        ranks.wait()  # the next stage reads what rank 0 wrote
    return True


def _fit(recipe: Recipe, bundle: Bundle) -> Recipe:
    """The recipe for a bundle's geometry; a VAE's has no codebook, whose size the recipe then says."""
    assert isinstance(recipe.tokenizer.head, VQConfig)
    head = bundle.config.head
    if not isinstance(head, VQConfig):
        head = VQConfig(recipe.tokenizer.head.codes, head.dim)
    return replace(recipe, tokenizer=replace(bundle.config, head=head))


def _check_run(plan: Plan, bundle: Bundle | None, waiting: list[Stage]) -> Plan:
    """Refuse to mix runs in a folder; take over the lengths and the geometry that a run was begun with."""
    path = plan.out / RUN_FILE
    if not path.is_file():
        if plan.resume:
            raise TrainingError(f"{plan.out} holds no run to resume: it has no {RUN_FILE}")
        return plan
    record = _read_run(path)
    if bundle is None and record["source"] is not None:
        geometry = record["recipe"]["tokenizer"]
        plan = replace(plan, recipe=replace(plan.recipe, tokenizer=TokenizerConfig.from_dict(geometry)))
    if (record["name"], record["recipe"]) != (plan.name, plan.recipe.to_dict()):
        raise TrainingError(
            f"{plan.out} holds a run of another recipe, {record['name']}, or of this one before it was changed: "
            "choose another folder"
        )
    if bundle is not None and record["source"] not in (None, bundle.hash):
        raise TrainingError(f"{plan.out} was begun from bundle {record['source'][:12]}, not {bundle.hash[:12]}")
    begun = [stage.name for stage in waiting if plan.has_begun(stage)]
    if begun and not plan.resume:
        raise TrainingError(f"{plan.out} holds a run already, with stage {begun[0]} begun: resume it or choose another")
    kept = {name: Budget(**length) for name, length in record["lengths"].items()}
    for name in begun:
        length = kept.get(name) or Budget(plan.recipe.stage(name).steps)
        if plan.lengths.get(name, length) != length:
            raise TrainingError(
                f"stage {name} in {plan.out} was begun as a run of {length}, not of {plan.lengths[name]}: "
                "resume it with its own length"
            )
    return replace(plan, lengths=kept | dict(plan.lengths))


def _read_run(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TrainingError(f"{path} is damaged: {error}") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise TrainingError(f"{path} does not describe a run of format {FORMAT!r}")
    return record


def _write_run(plan: Plan, bundle: Bundle | None) -> None:
    """Record what a folder is used for; what it was begun with stays."""
    path = plan.out / RUN_FILE
    source = _read_run(path)["source"] if path.is_file() else None
    record = {
        "format": FORMAT,
        "name": plan.name,
        "recipe": plan.recipe.to_dict(),
        "source": source or (bundle.hash if bundle is not None else None),
        "lengths": {name: length.to_dict() for name, length in plan.lengths.items()},
    }
    plan.out.mkdir(parents=True, exist_ok=True)
    replace_file(path, json.dumps(record, indent=2).encode() + b"\n")


def _start(plan: Plan, stage: Stage, feed: Feed, bundle: Bundle | None, device: torch.device, ranks: Ranks) -> Start:
    """Load the start of a stage: its own checkpoint, a bundle, the stage before it, or random weights."""
    recipe, config = plan.recipe, with_head(plan.recipe.tokenizer, stage.head)
    index = recipe.stages.index(stage)
    torch.manual_seed(recipe.seed)
    if plan.has_begun(stage) or (index == 0 and bundle is None):
        if not plan.has_begun(stage) and (hash_ := _source_of(plan)):
            raise TrainingError(f"{plan.out} was begun from bundle {hash_[:12]}: name it again")
        return Start(OmniTokenizer(config).to(device))
    if bundle is not None:
        source = bundle.tokenizer
        taken = Start(
            source, codebook=source.config.is_vq, history=(f"begun from the bundle {bundle.name}, {bundle.hash[:12]}",)
        )
    else:
        before = recipe.stages[index - 1]
        if not plan.is_done(before):
            raise TrainingError(
                f"stage {stage.name} begins from a bundle or from the stage before it, {before.name}, which "
                f"{plan.out} has not done"
            )
        source = OmniTokenizer(with_head(recipe.tokenizer, before.head))
        taken = finished(read_checkpoint(plan.folder(before), recipe.to_dict(), before.name), source)
    source.to(device)
    pixels = next(iter(feed.stream([draw_of(stage, recipe.seed, 1, taken.drawn)])))
    tokenizer = hand_over(source, config, pixels, ranks)
    return replace(taken, tokenizer=tokenizer, codebook=taken.codebook and config.is_vq)


def _source_of(plan: Plan) -> str | None:
    """Hash of the bundle that a run was begun from."""
    path = plan.out / RUN_FILE
    return _read_run(path)["source"] if path.is_file() else None


def _perceptual(plan: Plan, stage: Stage, device: torch.device) -> Perceptual | None:
    loss = perceptual_loss(stage.losses.perceptual_network, plan.perceptual_weights)
    return None if loss is None else loss.to(device)


def _write_bundles(plan: Plan, trainer: Trainer, console: Console) -> None:
    """The bundle of a stage and, after the last stage with its head, that of the run; the stage's marks it as done."""
    stage, recipe = trainer.stage, plan.recipe
    name = f"{plan.name}-{stage.head}"
    later = recipe.stages[recipe.stages.index(stage) + 1 :]
    paths = [plan.folder(stage) / BUNDLE]
    if all(other.head != stage.head for other in later):
        paths.insert(0, plan.out / name)
    config = trainer.learner.average.config
    card = model_card(name, recipe, config, trainer.history(), machine_name(trainer.device), plan.trained_on)
    for path in paths:
        try:
            save_bundle(path, trainer.learner.average, card, licence=recipe.licence, dtype=torch.float16)
        except OSError as error:
            raise TrainingError(f"{path} takes no bundle: {error}; the checkpoint of the stage is whole") from error
        console.print(f"wrote {path}", highlight=False)
