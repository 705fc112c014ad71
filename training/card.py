"""The model card of a trained bundle: what is known and measured, nothing more."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from model.tokenizer.config import TokenizerConfig, VQConfig
from training.recipes import AnyRecipe, AnyStage, Recipe, Stage


def model_card(
    name: str,
    recipe: Recipe,
    config: TokenizerConfig,
    history: Sequence[str],
    machine: str,
    trained_on: Sequence[str] = (),
) -> str:
    """Return the card of a bundle, Markdown.

    Args:
        name: of the bundle.
        recipe: of the run.
        config: the bundle's geometry.
        history: how its weights came about, a sentence a stage, the last one last.
        machine: what it was trained on.
        trained_on: sentences that say what the data is.
    """
    named = {line.partition(":")[0].removeprefix("stage ") for line in history}
    stages = [stage for stage in recipe.stages if stage.name in named]
    causal = "causal in time" if config.streams else "for whole clips, as its temporal layers see later frames"
    return f"""# {name}

A joint image and video tokenizer after OmniTokenizer, {causal}: width {config.width}, {config.patch}x{config.patch}
pixels and {config.temporal_patch} frames per latent position after a first frame of its own, {_head(config)}.
The weights are the run's moving average, in half precision.

## Training

On {machine}, code at {code_version()}:

{bullets(history)}

## Data

{bullets(trained_on or ["not described"])}

## Metrics

Not measured yet: `omnitok evaluate` writes them as `metrics.md`.

## Losses

{bullets([_losses(stage) for stage in stages])}

## Settings

{settings_table(stages)}

## Limits

What the data does not show, the model has not learned; the metrics hold for data like that of the evaluation.

## Licence

{licence(recipe)}
"""


def _head(config: TokenizerConfig) -> str:
    if isinstance(config.head, VQConfig):
        return f"{config.head.codes:,} codes of {config.head.dim} dimensions"
    return f"Gaussian latents of {config.head.dim} channels"


def _losses(stage: Stage) -> str:
    """Return a sentence on what a stage minimises."""
    losses = stage.losses
    terms = {"L2": losses.l2, "L1": losses.l1}
    if not stage.decoder_only:  # a frozen encoder has constant ones
        terms |= _encoder_losses(stage)
    terms |= {f"perceptual ({losses.perceptual_network})": losses.perceptual}
    if stage.adversarial:
        terms |= {"image adversarial": losses.image_adversarial}
        terms |= {"video adversarial": losses.video_adversarial if stage.clip_batch_size else 0.0}
        terms |= {"feature matching within these": losses.feature_matching}
    return f"{stage.name}: " + ", ".join(f"{term} {weight:g}" for term, weight in terms.items() if weight)


def _encoder_losses(stage: Stage) -> dict[str, float]:
    losses = stage.losses
    if stage.head == "vae":
        return {"KL divergence (equation 2)": losses.kl}
    learned = stage.codebook_update == "gradient"
    return {"codebook (equation 1)": losses.codebook if learned else 0.0, "commitment": losses.commitment}


def settings_table(stages: Sequence[AnyStage]) -> str:
    """Return a table of the other settings of the stages."""
    columns = [dict(_settings(stage)) for stage in stages]
    names = list(dict.fromkeys(name for column in columns for name in column))
    lines = [f"| setting | {' | '.join(stage.name for stage in stages)} |", "| --- " * (len(stages) + 1) + "|"]
    lines += [f"| {name} | {' | '.join(str(column.get(name, '')) for column in columns)} |" for name in names]
    return "\n".join(lines)


def _settings(stage: AnyStage) -> Iterator[tuple[str, object]]:
    for name, value in asdict(stage).items():
        if name == "discriminators":
            if isinstance(stage, Stage) and stage.adversarial:
                yield from ((f"discriminators: {key}", setting) for key, setting in value.items())
        elif name in ("latent_channels", "decoder_only") and not value:
            continue  # channels of the stage before, and all weights
        elif name not in ("name", "steps", "losses"):
            yield name, ", ".join(map(str, value)) if isinstance(value, tuple) else value


def licence(recipe: AnyRecipe) -> str:
    """Return what is known of the licence of a run's weights."""
    weights = recipe.licence or "not stated: whoever trained it decides, as far as the data allows"
    return f"Weights: {weights}. The training data keeps its own licences."


def bullets(lines: Sequence[str]) -> str:
    """Return lines as a list."""
    return "\n".join(f"- {line}" for line in lines)


def machine_name(device: torch.device) -> str:
    """Return the GPU's name, or the kind of CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"a CPU ({platform.machine()})"


def code_version() -> str:
    """Return the short commit of the code, or "an unknown version" outside a checkout of its own."""
    command = ["git", "-C", str(Path(__file__).parents[1]), "rev-parse", "--show-prefix", "--short", "HEAD"]
    try:
        prefix, commit = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        prefix, commit = "", ""
    # a prefix is the way from the root of another repository, such as a home folder with an environment in it
    return commit if commit and not prefix else "an unknown version"
