"""`python -m tools.demo_run.warm STAGE`: compile the shapes of a stage of the demo recipe, on synthetic data.

Compiled code of blocks depends on the shapes of batches alone, not on data, weights, losses or the width of latents.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from rich.console import Console

from training.data.loaders.device_loader import DeviceLoader
from training.distributed import init_distributed
from training.recipes import RECIPES, LossWeights
from training.runner import RunConfig, run_recipe
from training.tokenizer.task import TokenizerTask

STEPS = 30  # until every shape has been compiled and captured: it compiles at the first step and records at the third


def main() -> None:
    """Train a few steps."""
    if os.environ.get("DEMO_RUN_SMALL"):
        from tools.demo_run.small import shrink

        shrink()
    recipe = RECIPES["demo"]
    stage = replace(recipe.stage(sys.argv[1]), after="", losses=LossWeights(), steps=STEPS)
    recipe = replace(recipe, stages=(stage,))
    side, frames = max(stage.resolutions), stage.frames
    photographs = torch.randint(0, 256, (64, 1, side, side, 3), dtype=torch.uint8)
    wide = max(stage.resolutions_of("clips"))
    clips = torch.randint(0, 256, (16, frames, wide, wide, 3), dtype=torch.uint8)
    with init_distributed(None) as (ranks, device), TemporaryDirectory() as scratch:
        # rank 0 alone writes; each rank has a folder of its own
        run = RunConfig("demo", recipe, Path(scratch), log_every=1)
        loader = DeviceLoader([[photographs]], [[clips]], device, recipe.seed, ranks)
        run_recipe(run, TokenizerTask(), loader, device, ranks, console=Console(stderr=True, quiet=not ranks.is_main))


if __name__ == "__main__":
    main()
