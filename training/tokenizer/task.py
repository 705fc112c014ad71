"""A run that trains a tokenizer: where its stages begin, and the bundles that they end in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from model.bundle import load_bundle, save_bundle
from model.tokenizer.config import TokenizerConfig, VQConfig
from model.tokenizer.tokenizer import OmniTokenizer
from training.card import machine_name, model_card
from training.checkpoint import read_checkpoint
from training.data.loaders.batch import Loader
from training.distributed import Ranks
from training.errors import TrainingError
from training.networks.lpips import FeatureDistance, load_perceptual
from training.recipes import AnyStage, Recipe, Stage
from training.runner import RunConfig, StartedStage
from training.schedule import batch_at
from training.tokenizer.head_transfer import transfer_head, with_head
from training.tokenizer.start import StageStart, start_after
from training.tokenizer.step import TrainingStep
from training.trainer import Trainer


class TokenizerTask:
    """Stages of a tokenizer one after the other, each from the weights of the one before.

    Args:
        init_bundle: bundle that the first stage to run begins from; its geometry wins over the recipe's.
        perceptual_weights: file of the network of the perceptual distance.

    Raises:
        BundleError: `init_bundle` is not a tokenizer's bundle.
    """

    def __init__(self, init_bundle: Path | None = None, perceptual_weights: Path | None = None) -> None:
        self.bundle = load_bundle(init_bundle) if init_bundle is not None else None
        self.source = self.bundle.hash if self.bundle is not None else None
        self.perceptual_weights = perceptual_weights
        self.perceptual: dict[str, FeatureDistance | None] = {}

    def adopt(self, run: RunConfig, record: dict[str, Any] | None) -> RunConfig:
        """Return the run with the geometry of the bundle that it begins or was begun from."""
        recipe = _tokenizer_recipe(run)
        if self.bundle is not None:
            # a VAE has no codebook, so the recipe says its size
            assert isinstance(recipe.tokenizer.head, VQConfig)
            head = self.bundle.config.head
            if not isinstance(head, VQConfig):
                head = VQConfig(recipe.tokenizer.head.codes, head.dim)
            return replace(run, recipe=replace(recipe, tokenizer=replace(self.bundle.config, head=head)))
        if record is not None and record["source"] is not None:
            self.source = record["source"]
            geometry = TokenizerConfig.from_dict(record["recipe"]["tokenizer"])
            return replace(run, recipe=replace(recipe, tokenizer=geometry))
        return run

    def load(self, waiting: Sequence[AnyStage], device: torch.device) -> None:
        """Load the networks of perceptual distances."""
        for stage in waiting:
            assert isinstance(stage, Stage)
            network = stage.losses.perceptual_network
            self.perceptual[stage.name] = load_perceptual(network, self.perceptual_weights, device)

    def start(
        self, run: RunConfig, stage: AnyStage, first: bool, loader: Loader, device: torch.device, ranks: Ranks
    ) -> StartedStage:
        """Build the step of a stage."""
        assert isinstance(stage, Stage)
        start = self._start(run, stage, first, loader, device, ranks)
        step = start.step(_tokenizer_recipe(run), stage, ranks, self.perceptual[stage.name])
        return StartedStage(step, start.drawn, start.history)

    def write_bundle(self, run: RunConfig, trainer: Trainer, path: Path) -> None:
        """Write the averaged weights of a stage as a bundle."""
        stage, recipe, step = trainer.stage, _tokenizer_recipe(run), trainer.train_step
        assert isinstance(stage, Stage)
        assert isinstance(step, TrainingStep)
        ema = step.state.ema
        name, machine = f"{run.name}-{stage.head}", machine_name(trainer.device)
        card = model_card(name, recipe, ema.config, trainer.history(), machine, run.trained_on)
        save_bundle(path, ema, card, licence=recipe.licence, dtype=torch.float16)

    def run_bundle(self, run: RunConfig, stage: AnyStage) -> Path | None:
        """Return the folder of the run's bundle of a head, for the last stage with this head."""
        assert isinstance(stage, Stage)
        stages = _tokenizer_recipe(run).stages
        later = stages[stages.index(stage) + 1 :]
        return None if any(other.head == stage.head for other in later) else run.out / f"{run.name}-{stage.head}"

    def _start(
        self, run: RunConfig, stage: Stage, first: bool, loader: Loader, device: torch.device, ranks: Ranks
    ) -> StageStart:
        """Load the start of a stage: its own checkpoint, a bundle, the stage before it, or random weights."""
        recipe, bundle = _tokenizer_recipe(run), self.bundle if first else None
        config = with_head(recipe.tokenizer, stage.head, stage.latent_channels)
        before = recipe.before(stage)
        torch.manual_seed(recipe.seed)
        if run.has_begun(stage) or (before is None and bundle is None):
            if not run.has_begun(stage) and self.source is not None:
                raise TrainingError(f"{run.out} was begun from bundle {self.source[:12]}: name it again.")
            return StageStart(OmniTokenizer(config).to(device))
        if bundle is not None:
            source = bundle.tokenizer
            taken = StageStart(
                source,
                codebook_initialized=source.config.is_vq,
                history=(f"begun from the bundle {bundle.name}, {bundle.hash[:12]}",),
            )
        else:
            assert before is not None
            if not run.is_done(before):
                raise TrainingError(
                    f"Stage {stage.name} begins from a bundle or from stage {before.name}, not done in {run.out}."
                )
            source = OmniTokenizer(with_head(recipe.tokenizer, before.head, before.latent_channels))
            checkpoint = read_checkpoint(run.folder(before), recipe.to_dict(), before.name, TrainingStep.state_keys)
            taken = start_after(checkpoint, source)
        if stage.decoder_only and source.config.head != config.head:
            raise TrainingError(
                f"Stage {stage.name} trains the decoder alone, so that it begins from a bundle with {config.head}, "
                f"not {source.config.head}."
            )
        source.to(device)
        pixels = next(iter(loader.stream([batch_at(stage, recipe.seed, 1, taken.drawn)])))
        tokenizer = transfer_head(source, config, pixels, ranks)
        return replace(taken, tokenizer=tokenizer, codebook_initialized=taken.codebook_initialized and config.is_vq)


def _tokenizer_recipe(run: RunConfig) -> Recipe:
    assert isinstance(run.recipe, Recipe)
    return run.recipe
