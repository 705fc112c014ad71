"""Preparation of a run: codes of the data, extracted where they are missing, their loader, and validation."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console

from media.kinds import Kind
from model.bundle import load_bundle
from model.codes.info import INFO_FILE
from training.distributed import Ranks
from training.errors import TrainingError
from training.generator.code_set import CodeSet, ExtractionOptions, relabelled
from training.generator.encoded import open_encoded_codes
from training.generator.extraction import extract
from training.generator.task import GeneratorTask, fit_recipe
from training.generator.token_dataset import CodeLoader
from training.generator.validation import GeneratorValidator
from training.recipes import GeneratorRecipe

CODES, HELD_OUT_CODES = "codes", "held-out-codes"


class GeneratorRun(NamedTuple):
    """The parts of a run that trains a generator."""

    task: GeneratorTask
    loader: CodeLoader
    validator: GeneratorValidator


def prepare(
    recipe: GeneratorRecipe,
    tokenizer: Path,
    data: Path,
    out: Path,
    device: torch.device,
    ranks: Ranks,
    console: Console,
    fps: float | None = None,
    held_out: Path | None = None,
) -> GeneratorRun:
    """Open or extract the codes of a run.

    Args:
        recipe: as it is named.
        tokenizer: folder of the tokenizer's bundle.
        data: codes of `omnitok tokenize` or `omnitok data codes`, or a folder of data whose codes are then cached in
            `OUT/codes`.
        out: folder of the run.
        device: of this process.
        ranks: the processes that train together.
        console: for progress.
        fps: of clips cut from videos.
        held_out: items whose loss is measured at every checkpoint, as for `data`; codes go to `OUT/held-out-codes`.

    Raises:
        TrainingError: the tokenizer is of the other kind; the codes are another tokenizer's, or held-out
            ones have other classes.
        BundleError: the tokenizer's bundle cannot be loaded.
        CodesError: codes are incomplete, damaged or of another format.
    """
    bundle = load_bundle(tokenizer, device)
    recipe.check_kind("tokens" if bundle.config.is_vq else "latents")
    (stage,) = recipe.stages

    def codes_of(path: Path, cache: Path, options: ExtractionOptions) -> CodeSet:
        whole = (path / INFO_FILE).is_file()
        codes = open_encoded_codes(path) if whole else extract(bundle, path, cache, options, ranks, console)
        if codes.info.tokenizer_hash != bundle.hash:
            raise TrainingError(
                f"{path} holds codes of the tokenizer {codes.info.tokenizer}, {codes.info.tokenizer_hash[:12]}, not of "
                f"{bundle.name}, {bundle.hash[:12]}: name that one, or extract again."
            )
        return codes

    codes = codes_of(data, out / CODES, ExtractionOptions(stage.resolution, stage.frames, fps=fps, seed=recipe.seed))
    (fitted,) = fit_recipe(recipe, codes.info).stages
    others = None
    if held_out is not None:
        fps, seed = codes.info.options.fps, codes.info.options.seed
        options = ExtractionOptions(fitted.resolution, fitted.frames, flips=False, fps=fps, seed=seed)
        found = codes_of(held_out, out / HELD_OUT_CODES, options)
        sizes = [(one.info.options.height, one.info.options.frames or 1) for one in (codes, found)]
        if sizes[0] != sizes[1]:
            raise TrainingError(
                f"{held_out} has sides and frames of {sizes[1]} pixels, and {data} of {sizes[0]}: extract the same."
            )
        others = CodeLoader(relabelled(found, codes.info.classes), device, recipe.seed)
    kinds: dict[Kind, int] = {"images": fitted.image_batch_size, "clips": fitted.clip_batch_size}
    loader = CodeLoader(codes, device, recipe.seed, ranks)
    labels = {kind: loader.labels(kind) for kind, size in kinds.items() if size}
    return GeneratorRun(
        GeneratorTask(codes.info), loader, GeneratorValidator(bundle.tokenizer, labels, console, others)
    )
