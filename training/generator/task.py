"""A run that trains a generator on codes: its geometry comes from the codes, its bundle names their tokenizer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from model.bundle import save_generator
from model.codes.info import CodesInfo
from model.generator.config import LanguageModelConfig
from model.generator.lm import LanguageModel
from model.generator.networks import make_generator
from training.card import machine_name
from training.data.loaders.batch import Loader
from training.distributed import Ranks
from training.errors import TrainingError
from training.generator.card import generator_card
from training.generator.diffusion_step import DiffusionStep
from training.generator.lm_step import LanguageModelStep
from training.generator.step import GeneratorStep
from training.recipes import AnyStage, GeneratorRecipe, GeneratorStage
from training.runner import RunConfig, StartedStage
from training.trainer import Trainer

ANY_CLASS = "all"  # of data without classes, so that guidance has something to turn from


class GeneratorTask:
    """Training of a generator from random weights.

    Args:
        codes: what it is trained on.
    """

    source: str | None = None

    def __init__(self, codes: CodesInfo) -> None:
        self.codes = codes
        self.classes = codes.classes or (ANY_CLASS,)

    def adopt(self, run: RunConfig, record: dict[str, Any] | None) -> RunConfig:
        """Return the run with the codebook, classes, grid and moments of the data."""
        assert isinstance(run.recipe, GeneratorRecipe)
        return replace(run, recipe=fit_recipe(run.recipe, self.codes))

    def load(self, waiting: Sequence[AnyStage], device: torch.device) -> None:
        """Load nothing: a generator needs its codes alone."""

    def start(
        self, run: RunConfig, stage: AnyStage, first: bool, loader: Loader, device: torch.device, ranks: Ranks
    ) -> StartedStage:
        """Build the step of the stage from random weights."""
        assert isinstance(run.recipe, GeneratorRecipe)
        assert isinstance(stage, GeneratorStage)
        torch.manual_seed(run.recipe.seed)
        network = make_generator(run.recipe.network).to(device)
        step: GeneratorStep
        if isinstance(network, LanguageModel):
            step = LanguageModelStep(network, stage, run.recipe.seed, ranks)
        else:
            step = DiffusionStep(network, stage, run.recipe.seed, ranks)
        return StartedStage(step, {"images": 0, "clips": 0}, ())

    def write_bundle(self, run: RunConfig, trainer: Trainer, path: Path) -> None:
        """Write the averaged weights as a bundle."""
        assert isinstance(run.recipe, GeneratorRecipe)
        assert isinstance(trainer.train_step, GeneratorStep)
        ema, tokenizer, licence = trainer.train_step.ema, self.codes.tokenizer_hash, run.recipe.licence
        card = generator_card(run.name, run.recipe, self.codes, trainer.history(), machine_name(trainer.device))
        save_generator(path, ema, card, tokenizer, self.classes, licence, torch.float16)

    def run_bundle(self, run: RunConfig, stage: AnyStage) -> Path:
        """Return the folder of the run's bundle: a generator has one stage."""
        return run.out / run.name


def fit_recipe(recipe: GeneratorRecipe, codes: CodesInfo) -> GeneratorRecipe:
    """Return the recipe with the sizes of the codes: codebook, classes, grid, resolution, frames.

    A stage draws no items of a kind that the codes lack.

    Raises:
        TrainingError: tokens for a diffusion model or latents for a language model, or no items of any kind.
    """
    network, (stage,) = recipe.network, recipe.stages
    recipe.check_kind(codes.kind)
    rows = codes.rows or {}
    has_images = rows.get("images") or (codes.causal and rows.get("clips"))
    if not (stage.image_batch_size and has_images) and not (stage.clip_batch_size and rows.get("clips")):
        raise TrainingError(
            f"The recipe trains on {stage.image_batch_size} images and {stage.clip_batch_size} clips a step, and the "
            f"codes hold {rows.get('images', 0)} images and {rows.get('clips', 0)} clips: choose another recipe."
        )
    side = codes.options.height
    assert side is not None  # as of all codes that were opened
    stage = replace(
        stage,
        image_batch_size=stage.image_batch_size if has_images else 0,
        clip_batch_size=stage.clip_batch_size if rows.get("clips") else 0,
        resolution=side,
        frames=codes.options.frames or 1,
    )
    grid = codes.grid("clips" if stage.clip_batch_size else "images")
    assert grid is not None
    classes = len(codes.classes) or 1
    if isinstance(network, LanguageModelConfig):
        positions = grid[0] * grid[1] * grid[2]  # one for the class, and the last code is never fed
        network = replace(
            network, codes=codes.size, classes=classes, null_class=True, prefix="class", positions=positions, grid=grid
        )
    else:
        assert codes.mean is not None
        assert codes.std is not None
        network = replace(
            network,
            channels=codes.size,
            classes=classes,
            grid=grid,
            latent_scale=tuple(1 / max(std, 1e-6) for std in codes.std),
            latent_shift=codes.mean,
            guidance_channels=None,
            images=stage.image_batch_size > 0 or grid[0] == 1,
        )
    record = json.dumps(asdict(codes), sort_keys=True).encode()
    return replace(recipe, network=network, stages=(stage,), codes=hashlib.sha256(record).hexdigest()[:16])
