"""The demo generators: whole bundles, of tokenizers that are served, that make a picture on a CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from model.bundle import CLASSES_FILE, GeneratorBundle, load_bundle, load_generator, read_config
from model.generator.lm import LanguageModel
from model.generator.sampling import SamplingParams
from model.inference.decoder import Decoder
from model.inference.diffusion import DiffusionItem, DiffusionParams, DiffusionSampler
from model.inference.sequence import Sequence

BUNDLES = Path(__file__).parents[2] / "bundles"
GENERATORS = sorted(file.parent for file in BUNDLES.glob(f"*/{CLASSES_FILE}"))
MAX_BYTES = 64e6  # as many as a clone and an image have for a bundle


@pytest.mark.parametrize("path", GENERATORS, ids=lambda path: path.name)
def test_a_demo_generator_makes_a_picture_for_its_tokenizer(path: Path) -> None:
    generator = load_generator(path)
    (tokenizer,) = [
        folder
        for folder in BUNDLES.iterdir()
        if folder not in GENERATORS and read_config(folder).hash == generator.tokenizer_hash
    ]
    assert sum(file.stat().st_size for file in path.iterdir()) < MAX_BYTES
    assert len(generator.classes) == 16
    assert "bigfish" in generator.classes
    codes = _few_codes(generator)
    pixels = load_bundle(tokenizer).tokenizer.decode(codes)
    assert pixels.dtype == torch.uint8
    assert pixels.float().std() > 1  # not one flat colour


def _few_codes(generator: GeneratorBundle) -> torch.Tensor:
    """Return codes (1, 1, h, w) of the first class after few steps."""
    network = generator.generator
    if isinstance(network, LanguageModel):
        params = SamplingParams(guidance=network.config.sampling.guidance, seed=0)
        engine = Decoder(network, 2, torch.device("cpu"))
        prefixes = network.config.prefix_ids(0), network.config.unconditional_prefix_ids()
        handle = engine.join(Sequence(prefixes[0], 16, params, prefixes[1]))
        while not engine.finished(handle):
            engine.step()
        return engine.read(handle).unflatten(0, (1, 1, 4, 4))
    sampler = DiffusionSampler(network, torch.device("cpu"), torch.float32)
    return sampler.sample([DiffusionItem(0, 0, network.config.sampling.guidance)], DiffusionParams(2, "ddim", 1))
