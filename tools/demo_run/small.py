"""`python -m tools.demo_run.small`: the training commands with recipes that a CPU runs in seconds, for rehearsals."""

from __future__ import annotations

from dataclasses import replace

from model.tokenizer.config import CONFIGS
from training.__main__ import app
from training.demo_data.demo import DATA_SETS
from training.recipes import GENERATOR_RECIPES, RECIPES, Stage

MAX_SHARDS = 16  # one of each game


def shrink() -> None:
    """Put small batches, squares and networks into the demo's recipes, and few shards into its data."""
    for name, plans in DATA_SETS.items():
        DATA_SETS[name] = tuple(replace(plan, shards=min(plan.shards, MAX_SHARDS)) for plan in plans)
    recipe = RECIPES["demo"]
    stages = tuple(_small(stage) for stage in recipe.stages)
    RECIPES["demo"] = replace(recipe, tokenizer=CONFIGS["debug"], stages=stages)
    for name, debug in (("lm-demo", "lm-debug"), ("latte-demo", "dit-debug")):
        whole, small = GENERATOR_RECIPES[name], GENERATOR_RECIPES[debug]
        (stage,) = whole.stages
        stage = replace(small.stages[0], name=stage.name, image_batch_size=4, clip_batch_size=2)
        GENERATOR_RECIPES[name] = replace(whole, network=small.network, stages=(stage,))


def _small(stage: Stage) -> Stage:
    return replace(
        stage, image_batch_size=2, clip_batch_size=min(2, stage.clip_batch_size), resolutions=(64,), frames=5,
        clip_resolutions=(64,) if stage.clip_batch_size else (), base_resolution=64, batch_multiple=2,
        discriminators=replace(stage.discriminators, start=2, channels=32, layers=2), precision="fp32",
    )  # fmt: skip


if __name__ == "__main__":
    shrink()
    app()
