"""The model card of a trained generator: what is known, nothing more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from model.codes.info import CodesInfo
from training.card import bullets, code_version, licence, settings_table
from training.recipes import GeneratorRecipe

MAX_CLASSES_NAMED = 50


def generator_card(name: str, recipe: GeneratorRecipe, codes: CodesInfo, history: Sequence[str], machine: str) -> str:
    """Return the card of a bundle, Markdown.

    Args:
        name: of the bundle.
        recipe: of the run, with the geometry of its data.
        codes: what it was trained on.
        history: how its weights came about, a sentence a stage.
        machine: what it was trained on.
    """
    config, options, (stage,) = recipe.network, codes.options, recipe.stages
    kind = "language model over tokens" if codes.kind == "tokens" else "diffusion model of latents"
    shown = "images and clips" if config.grid[0] > 1 and stage.image_batch_size else "clips"
    shown = shown if config.grid[0] > 1 else "images"
    size = f"{options.height} x {options.width}"
    if config.grid[0] > 1:
        size = f"{options.frames} x {size}"
    rows = ", ".join(f"{count:,} {what}" for what, count in (codes.rows or {}).items() if count)
    classes = ", ".join(codes.classes[:MAX_CLASSES_NAMED])
    more = len(codes.classes) - MAX_CLASSES_NAMED
    mirrored = ", mirror images among them" if options.flips else ""
    data = [codes.source, f"encoded once: {rows}{mirrored}"]
    if codes.classes:
        data.append(f"{len(codes.classes):,} classes: {classes}" + (f", and {more:,} more" if more > 0 else ""))
    sampling = ", ".join(f"{key} {value}" for key, value in asdict(config.sampling).items())
    return f"""# {name}

A class-conditional {kind} of the tokenizer {codes.tokenizer} ({codes.tokenizer_hash[:12]}), after OmniTokenizer's
section 3.2: {config.layers} layers of width {config.width}, for {shown} of {size} pixels. The weights are the run's
moving average, in half precision.

## Training

On {machine}, code at {code_version()}:

{bullets(history)}

## Data

{bullets(data)}

## Metrics

Not measured yet: `omnitok evaluate` writes them as `metrics.md`, with a sheet of nearest training neighbours.

## Sampling

Defaults: {sampling}.

## Settings

{settings_table([stage])}

## Limits

It shows what its data shows, in classes of its data alone. A small model on small data repeats training items: look at
the sheet of neighbours.

## Licence

{licence(recipe)}
"""
