"""Generators on a GPU, where there is one: a crowd of both kinds during encoding, in one process."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from model.bundle import save_bundle, save_generator
from model.generator.config import GENERATOR_CONFIGS
from model.generator.networks import make_generator
from model.tokenizer.config import CONFIGS
from model.tokenizer.tokenizer import OmniTokenizer
from service.engine.generator import GeneratorEngine
from service.engine.lane import LaneOptions
from service.engine.tokenizer import Engine
from service.in_process import LocalBackend, LocalGenerators, Unobserved
from service.settings import Settings
from service.types import GenerateJob, GenerateParams

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="captured steps run on a GPU")

SETTINGS = Settings(bundles=(), generate_seconds=240)


@pytest.fixture(scope="module")
def tiers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LocalBackend, LocalGenerators]]:
    root = tmp_path_factory.mktemp("bundles")
    torch.manual_seed(0)
    save_bundle(root / "demo", OmniTokenizer(CONFIGS["demo"]).eval(), card="Random weights for tests.")
    for name in ("lm-demo", "dit-demo", "latte-demo"):
        config = GENERATOR_CONFIGS[name]
        names = [f"class {index}" for index in range(config.classes)]
        save_generator(root / name, make_generator(config).eval(), "Random weights for tests.", "a" * 64, names)
    engine = Engine([root / "demo"], "cuda", "float32", 1)
    engine.warm_up([(1, 128, 128)], 1024, 4)
    paths = [root / name for name in ("lm-demo", "dit-demo", "latte-demo")]
    generators = GeneratorEngine.load(paths, "cuda", 1, LaneOptions(16, 128, "bfloat16"))
    backend = LocalBackend(engine.cards, engine.launch, SETTINGS, Unobserved())
    local = LocalGenerators(generators, SETTINGS, Unobserved())
    yield backend, local
    local.close()
    backend.close()


def job(seed: int) -> GenerateJob:
    model = ("lm-demo", "lm-demo", "dit-demo", "latte-demo")[seed % 4]
    prompt = np.full((2, 16, 16), seed, np.int32) if seed % 8 == 1 else None
    frames = {"dit-demo": 1, "latte-demo": 5}.get(model, 3 if prompt is not None else 1)
    params = GenerateParams(guidance=1.0 + seed % 3, steps=10, temperature=0.9, top_k=50 * (seed % 2))
    return GenerateJob(model, seed % 4, frames, params, seed, prompt=prompt)


async def test_a_crowd_of_both_kinds_runs_beside_encoding(tiers: tuple[LocalBackend, LocalGenerators]) -> None:
    backend, generators = tiers
    jobs = [job(seed) for seed in range(24)]
    pixels = np.random.default_rng(0).integers(0, 256, (1, 128, 128, 3), np.uint8)
    [card] = await backend.models()
    quiet = await backend.encode(card.id, pixels, "tokens")

    async def encode_beside() -> int:
        count = 0
        while not work.done():
            found = await backend.encode(card.id, pixels, "tokens")
            np.testing.assert_array_equal(found.tokens, quiet.tokens)
            count += 1
        return count

    work = asyncio.gather(*(generators.generate(one, lambda progress: None) for one in jobs))
    encoded = await encode_beside()
    made = await work
    assert encoded > 0
    for one, result in zip(jobs, made, strict=True):
        codes = result.latents if result.tokens is None else result.tokens
        assert codes is not None
        assert codes.shape[:3] == (one.frames, 16, 16)
        assert np.isfinite(codes).all()
        if one.prompt is not None:
            np.testing.assert_array_equal(codes[:2], one.prompt)
    again = await generators.generate(jobs[2], lambda progress: None)
    difference = np.abs(again.latents - made[2].latents)
    assert difference.mean() < 0.05 * np.abs(made[2].latents).mean(), "alone as in a crowd, up to rounding"
