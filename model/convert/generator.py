"""Published checkpoints of any kind to bundles: the file's own content decides."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from model.convert.diffusion import convert_diffusion, is_diffusion
from model.convert.language_model import convert_language_model
from model.convert.omnitokenizer import convert_tokenizer
from model.convert.published import ConversionError, ConversionReport, read_published


def convert_checkpoint(
    source: str | Path,
    destination: str | Path,
    additive_bias: bool | None = None,
    tokenizer: str | Path | None = None,
    classes: Sequence[str] | None = None,
    heads: int | None = None,
) -> ConversionReport:
    """Turn a published checkpoint into a bundle, without running anything that the file holds.

    Args:
        source: a tokenizer's or a language model's `.ckpt` file, or a diffusion model's `.pt` file.
        destination: the bundle's folder.
        additive_bias: whether the tokenizer was trained without fused attention; None decides by its name.
        tokenizer: bundle of a generator's tokenizer; needed where the file carries none.
        classes: a name for each class of a generator; None for their ids.
        heads: attention heads of a diffusion model; None for those of the released kinds.

    Raises:
        ConversionError: the file is not such a checkpoint, or an argument does not fit it.
        BundleError: the destination exists and is not a bundle, or the tokenizer's bundle is broken.
    """
    source, destination = Path(source), Path(destination)
    checkpoint = read_published(source)
    bundle = None if tokenizer is None else Path(tokenizer)
    if is_diffusion(checkpoint):
        return convert_diffusion(source, checkpoint, destination, bundle, classes, heads)
    if heads is not None:
        raise ConversionError(f"{source} is not a diffusion model, the only kind whose file lacks its heads.")
    if _is_language_model(checkpoint):
        return convert_language_model(source, checkpoint, destination, bundle, classes, additive_bias)
    if tokenizer is not None or classes is not None:
        raise ConversionError(f"{source} is not a generator, which alone has classes and names a tokenizer.")
    return convert_tokenizer(source, checkpoint, destination, additive_bias)


def _is_language_model(checkpoint: Mapping[str, Any]) -> bool:
    state = checkpoint.get("state_dict")
    return isinstance(state, dict) and any(str(key).startswith("transformer.") for key in state)


def read_class_names(path: Path) -> list[str]:
    """Return the names in a file: a JSON list, or one name a line.

    Raises:
        ConversionError: the file is not readable as either.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        names = json.loads(text) if text.lstrip().startswith(("[", "{")) else text.splitlines()
    except (OSError, ValueError, RecursionError) as error:
        raise ConversionError(f"{path} holds no names of classes: {error}") from error
    if not isinstance(names, list):
        raise ConversionError(f"{path} must hold a JSON list or one name a line, not a {type(names).__name__}.")
    return names
