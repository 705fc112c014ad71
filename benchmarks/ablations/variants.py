"""The trainings that tables 7 to 10 compare, as variants of one small recipe; all have the same budget.

A quarter of the paper's geometry: 64 pixels where it has 256, a grid of 8x8 tokens with windows of 4x4.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from model.tokenizer.config import TokenizerConfig, VQConfig
from training.data.loaders.batch import BatchSpec
from training.errors import TrainingError
from training.recipes import LossWeights, Recipe, Stage
from training.schedule import batches_after

STEPS = 1_600  # of the two VQ stages together; KL fine-tuning takes half as many again
SIDE, MULTI_SIDES = 64, (48, 64, 96)
IMAGES, CLIPS = 80, 16  # of a step at `SIDE`: 5,120 tokens either way

TOKENIZER = TokenizerConfig(
    width=128, heads=2, head_dim=64, patch_norm=False, encoder_blocks="ww", decoder_blocks="ww", temporal_layers=2,
    window=4, head=VQConfig(codes=2048, dim=8),
)  # fmt: skip
PLAIN_SPACE = replace(TOKENIZER, encoder_blocks="tt", decoder_blocks="tt")
PLAIN_TIME = replace(TOKENIZER, causal_attention=False, causal_peg=False)


@dataclass(frozen=True)
class Variant:
    """One training.

    Args:
        recipe: the stages.
        shown: the stages whose bundles are measured.
    """

    recipe: Recipe
    shown: tuple[str, ...]


def variants(steps: int = STEPS, seed: int = 0) -> dict[str, Variant]:
    """Return every training of tables 7 to 10, once, by name.

    Trainings of one stage spend `steps` on it; those of two spend half on each. The two orders of table 10 add a third
    stage of half as many steps.

    Args:
        steps: even, at least 2.
        seed: of weights, data and draws.

    Raises:
        TrainingError: the steps do not halve.
    """
    if steps < 2 or steps % 2:
        raise TrainingError(f"steps={steps} must be an even number from 2: two stages share them.")
    warmup = max(1, min(200, steps // 10))
    image = Stage(
        name="image", head="vq", steps=steps, image_batch_size=IMAGES, resolutions=(SIDE,), base_resolution=SIDE,
        learning_rate=1e-3, warmup_steps=warmup, ema_decay=0.995, losses=LossWeights(l2=20.0, l1=2.0),
        dead_code_steps=100, unquantized_steps=warmup,
    )  # fmt: skip
    video = replace(image, name="video", image_batch_size=0, clip_batch_size=CLIPS)
    first = replace(image, steps=steps // 2)
    joint = replace(first, name="joint", clip_batch_size=CLIPS, unquantized_steps=0)
    multi = replace(joint, resolutions=MULTI_SIDES)

    vae, vq = replace(multi, name="kl", head="vae"), replace(multi, name="vq")

    def variant(*stages: Stage, of: TokenizerConfig = TOKENIZER, shown: int = 1) -> Variant:
        return Variant(Recipe(of, stages, seed), tuple(stage.name for stage in stages[-shown:]))

    return {
        "image-fix": variant(image),
        "image-multi": variant(replace(image, resolutions=MULTI_SIDES)),
        "video-fix": variant(video),
        "video-multi": variant(replace(video, resolutions=MULTI_SIDES)),
        "joint-fix": variant(first, joint),
        "joint-multi": variant(first, multi, vae, shown=2),
        "image-fix-plain": variant(image, of=PLAIN_SPACE),
        "joint-multi-plain": variant(first, multi, of=PLAIN_TIME),
        "kl-first": variant(replace(first, head="vae"), replace(multi, head="vae"), vq, shown=2),
    }


def batches(recipe: Recipe) -> Iterator[BatchSpec]:
    """Yield all batches of a run, stage after stage."""
    for stage in recipe.stages:
        yield from batches_after(stage, recipe.seed, 0, {"images": 0, "clips": 0}, stage.steps)


def tokens(recipe: Recipe, batch: BatchSpec) -> int:
    """Count the positions of the latent grids of a batch."""
    return batch.count * recipe.tokenizer.geometry.positions((batch.frames, batch.side, batch.side))
