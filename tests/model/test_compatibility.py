"""A generator whose codes or latents its tokenizer does not have is refused wherever both are loaded."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model.bundle import BundleError, save_bundle, save_generator
from model.compatibility import check_compatible
from model.generator.config import GENERATOR_CONFIGS
from model.generator.networks import make_generator
from model.tokenizer.config import CONFIGS, VAEConfig, VQConfig
from model.tokenizer.tokenizer import OmniTokenizer
from service.cli.errors import CommandError
from service.cli.generate_offline import LocalGenerator

HEADS = {"vq": CONFIGS["debug"].head, "fewer": VQConfig(codes=32, dim=8), "vae": VAEConfig(dim=4), "wide": VAEConfig(8)}


def saved(folder: Path, generator: str, tokenizer: str) -> tuple[Path, Path]:
    torch.manual_seed(0)
    network = OmniTokenizer(replace(CONFIGS["debug"], head=HEADS[tokenizer])).eval()
    speaks = save_bundle(folder / tokenizer, network, card="Random weights for tests.")
    path = folder / generator
    maker = make_generator(GENERATOR_CONFIGS[generator]).eval()
    save_generator(path, maker, "Random weights for tests.", speaks, ("ant", "bee", "cow", "dog"))
    return path, folder / tokenizer


@pytest.mark.parametrize(("generator", "tokenizer"), [("lm-debug", "vq"), ("dit-debug", "vae")])
def test_what_fits_is_taken(tmp_path: Path, generator: str, tokenizer: str) -> None:
    made, speaks = saved(tmp_path, generator, tokenizer)
    check_compatible([made], [speaks])
    check_compatible([made], [])  # a tokenizer that is not there is refused by whoever needs it


@pytest.mark.parametrize(
    ("generator", "tokenizer", "makes", "has"),
    [
        ("lm-debug", "fewer", "64 codes", "32 codes"),
        ("lm-debug", "vae", "64 codes", "latents of 4 channels"),
        ("latte-debug", "wide", "latents of 4 channels", "latents of 8 channels"),
        ("dit-debug", "vq", "latents of 4 channels", "64 codes"),
    ],
)
def test_what_does_not_fit_is_refused_with_both_values(
    tmp_path: Path, generator: str, tokenizer: str, makes: str, has: str
) -> None:
    made, speaks = saved(tmp_path, generator, tokenizer)
    says = re.escape(f"{made} makes {makes}, and its tokenizer {speaks} has {has}.")
    with pytest.raises(BundleError, match=says):
        check_compatible([made], [speaks])
    with pytest.raises(CommandError, match=says):
        LocalGenerator(made, None, "cpu", 1)
