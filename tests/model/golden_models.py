"""Published models and their numbers, which tests of the conversion read."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from model.bundle import load_generator
from model.convert.generator import convert_checkpoint

GOLDEN = Path(__file__).parents[1] / "golden"


def published_numbers(name: str, device: str) -> dict[str, Tensor]:
    """Return the numbers of a published model."""
    return {key: value.to(device) for key, value in load_file(GOLDEN / f"{name}.safetensors").items()}


def convert_generators(folder: Path, tokenizer: str, *generators: str) -> Path:
    """Convert checkpoints, by their names, to bundles in a folder, which is returned."""
    into = convert_checkpoint(GOLDEN / tokenizer, folder / "tokenizer")
    for file in generators:
        path = folder / Path(file).stem
        report = convert_checkpoint(GOLDEN / file, path, tokenizer=into.path)
        bundle = load_generator(path)
        assert (bundle.hash, bundle.tokenizer_hash) == (report.hash, into.hash)
    return folder
