"""The model card of a trained bundle: what is known and measured, nothing more."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import torch

from training.recipes import Recipe
from training.trainer import describe

LICENCE = "Apache-2.0"


def model_card(name: str, recipe: Recipe, steps: int, seconds: float, machine: str) -> str:
    """The card of a bundle.

    Args:
        name: the recipe's name.
        recipe: what was trained.
        steps, seconds: how long.
        machine: what it ran on.
    """
    settings = describe(recipe)
    tokenizer = settings.pop("tokenizer")
    rows = "\n".join(f"| {key} | {value} |" for key, value in settings.items())
    head, patch = tokenizer["head"], tokenizer["patch"]
    return f"""# {name}

A joint image and video tokenizer after OmniTokenizer: width {tokenizer["width"]}, {patch}x{patch}
pixels and {tokenizer["temporal_patch"]} frames per token after a first frame of its own, {head["codes"]:,} codes of
{head["dim"]} dimensions, causal in time. Trained from scratch by `omnitok train {name}` for {steps:,} steps
({seconds:,.0f} s) on {machine}, code at {code_version()}. The weights are the run's moving average, in half precision.

## Data

Built by `omnitok data build demo`. Images: crops of about sixty photographs, Tux Paint stamps on plain ground, and
frames of the games. Clips: random play of sixteen Procgen games, and pans over the photographs. Sources and authors:
`training/data/CREDITS.md`. The held-out photographs, camera recordings and game levels were never trained on.

## Figures

Not measured yet: `omnitok evaluate` writes them as `figures.md`.

## Recipe

Losses: L1 and L2 reconstruction, codebook and commitment terms of the paper's equation 1. No adversarial or perceptual
loss, so fine texture comes out smooth.

| setting | value |
| --- | --- |
{rows}

## Limits

A small model of a short training on few photographs: good enough to show the service at work, no substitute for the
published weights. Faces, text and dense texture lose detail.

## Licence

Weights: {LICENCE}. The training pictures keep their own licences (see the credits).
"""


def machine_name(device: torch.device) -> str:
    """The GPU's name, or the kind of CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"a CPU ({platform.machine()})"


def code_version() -> str:
    """Short commit of the code, or "an unknown version" outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "an unknown version"
