"""A generator and the tokenizer that it was trained on, whose weights are not read."""

from __future__ import annotations

from pathlib import Path

from model.bundle_header import read_generator, read_tokenizer
from model.compatibility import check_compatible
from training.errors import TrainingError


def check_pair(bundle: Path, tokenizer: Path | None) -> Path:
    """Return the folder of a generator's tokenizer.

    Args:
        bundle: folder of the generator's bundle.
        tokenizer: folder of the tokenizer's bundle, if one was named.

    Raises:
        BundleError: a folder is not such a bundle, or the generator does not fit its tokenizer.
        TrainingError: no or another tokenizer.
    """
    trained_on = read_generator(bundle).tokenizer_hash
    if tokenizer is None:
        raise TrainingError("Samples of a generator are decoded by its tokenizer: name its bundle with --tokenizer.")
    if (found := read_tokenizer(tokenizer).hash) != trained_on:
        raise TrainingError(f"{bundle} was trained on the tokenizer {trained_on[:12]}, not on {found[:12]}.")
    check_compatible([bundle], [tokenizer])
    return tokenizer
