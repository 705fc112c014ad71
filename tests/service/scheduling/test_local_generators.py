"""Generators in one process, with the real decode engine and tiny random weights on a CPU."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from waiting import SECONDS, until

from model.bundle import BundleError, save_bundle, save_generator
from model.generator.config import GENERATOR_CONFIGS, LanguageModelConfig, SamplingDefaults
from model.generator.networks import make_generator
from model.tokenizer.config import CONFIGS
from model.tokenizer.tokenizer import OmniTokenizer
from service.engine.generator import GeneratorEngine
from service.engine.lane import LaneOptions
from service.in_process import LocalGenerators
from service.settings import Settings
from service.types import GenerateJob, GenerateParams, JobProgress

SETTINGS = Settings(bundles=(), generate_seconds=SECONDS)
OPTIONS = LaneOptions(slots=4, prefill_tokens=8)
FRAME = 16  # codes of a latent frame
CLASSES = ("ant", "bee", "cow", "dog")


class Reports:
    def __init__(self) -> None:
        self.slots, self.codes, self.steps = 0, 0, 0

    def generating(self, waiting: int, slots: int, oldest: float | None, positions: int) -> None:
        self.slots = slots

    def stepped(self, kind: str, steps: int, seconds: float) -> None:
        self.steps += steps

    def generated(self, kind: str, model: str, codes: int, waited: float) -> None:
        self.codes += codes


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("bundles")
    save_bundle(root / "vq", OmniTokenizer(CONFIGS["debug"]).eval(), card="Random weights for tests.")
    for name in ("lm", "other"):
        network = make_generator(GENERATOR_CONFIGS["lm-debug"]).eval()
        save_generator(root / name, network, "Random weights for tests.", "a" * 64, classes=CLASSES)
    return [root / "lm", root / "other"]


@pytest.fixture(scope="module")
def engine(paths: list[Path]) -> GeneratorEngine:
    return GeneratorEngine.load(paths, "cpu", 1, OPTIONS)


@pytest.fixture
def reports() -> Reports:
    return Reports()


@pytest.fixture
def generators(engine: GeneratorEngine, reports: Reports) -> Iterator[LocalGenerators]:
    generators = LocalGenerators(engine, SETTINGS, reports)
    yield generators
    generators.close()


def job(seed: int = 0, frames: int = 1, model: str = "lm", prompt: int = 0, **params: Any) -> GenerateJob:
    codes = np.random.default_rng(seed).integers(0, 64, (prompt, 4, 4), np.int32) if prompt else None
    return GenerateJob(model, seed % 4, frames, GenerateParams(**params), seed, prompt=codes)


def ignore(progress: JobProgress) -> None: ...


async def run(generators: LocalGenerators, *jobs: GenerateJob) -> list[Any]:
    made = await asyncio.gather(*(generators.generate(one, ignore) for one in jobs))
    return [one.tokens for one in made]


async def test_cards_say_what_the_bundles_are(generators: LocalGenerators) -> None:
    lm, other = await generators.generators()
    assert (lm.id, other.id, lm.kind, lm.makes) == ("lm", "other", "lm", ("image", "video"))
    assert (lm.classes, lm.class_count, lm.tokenizer_hash) == (CLASSES, 4, "a" * 64)
    assert (lm.takes_prefix, lm.needs_prefix, lm.guided, lm.unconditional) == (True, False, True, True)
    assert (lm.grid, lm.slots, lm.defaults.guidance, lm.device, lm.dtype) == ((5, 4, 4), 4, 1.5, "cpu", "float32")
    assert lm.step_seconds is not None


async def test_a_sample_is_the_same_alone_and_in_a_crowd(generators: LocalGenerators, reports: Reports) -> None:
    picked = random.Random(0)
    jobs = [
        job(
            seed,
            frames=picked.choice((1, 2)),
            model=picked.choice(("lm", "lm", "other")),
            prompt=picked.choice((0, 1)) if seed % 3 == 0 else 0,
            guidance=picked.choice((1.0, 2.0)),
            temperature=picked.choice((0.0, 0.7, 1.0)),
            top_k=picked.choice((0, 5)),
        )
        for seed in range(32)
    ]
    jobs = [one if one.prompt is None else replace(one, frames=2) for one in jobs]
    crowd = await run(generators, *jobs)
    for index in (0, 3, 7, 31):
        [alone] = await run(generators, jobs[index])
        np.testing.assert_array_equal(alone, crowd[index])
    assert reports.codes == sum(tokens.size for tokens in crowd) + sum(crowd[i].size for i in (0, 3, 7, 31))
    for one, tokens in zip(jobs, crowd, strict=True):
        assert tokens.shape == (one.frames, 4, 4)
        assert tokens.min() >= 0
        assert tokens.max() < 64
        if one.prompt is not None:
            np.testing.assert_array_equal(tokens[:1], one.prompt)


async def test_nobody_waits_for_an_unrelated_request(
    generators: LocalGenerators, engine: GeneratorEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture that arrives after a clip, a long prompt and a stranger is ready first."""
    order: list[str] = []
    all_there, step = threading.Event(), engine.step
    monkeypatch.setattr(engine, "step", lambda *work: all_there.wait() and step(*work))

    async def note(name: str, one: GenerateJob) -> None:
        await generators.generate(one, ignore)
        order.append(name)

    clip = asyncio.create_task(note("clip", job(1, frames=5)))
    prompt = asyncio.create_task(note("prompt", job(2, frames=5, prompt=3)))
    stranger = asyncio.create_task(note("stranger", job(3, frames=5, model="other")))
    await asyncio.sleep(0)
    picture = asyncio.create_task(note("picture", job(4)))
    await asyncio.sleep(0)
    all_there.set()
    await asyncio.gather(clip, prompt, stranger, picture)
    assert order[0] == "picture"


async def test_seeds_and_indices_make_other_samples(generators: LocalGenerators) -> None:
    first, again, index, seed = await run(generators, job(5), job(5), replace(job(5), index=1), replace(job(5), seed=6))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, index)
    assert not np.array_equal(first, seed)


async def test_a_cancelled_sample_frees_its_slots(
    generators: LocalGenerators, engine: GeneratorEngine, reports: Reports, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No sample can finish before it is cancelled."""
    joined: list[object] = []
    cancelled, join, step = threading.Event(), engine.join, engine.step
    monkeypatch.setattr(engine, "join", lambda sequence: join(sequence) or joined.append(sequence))
    monkeypatch.setattr(engine, "step", lambda *work: cancelled.wait() and step(*work))
    tasks = [asyncio.create_task(generators.generate(job(seed, 5, guidance=2.0), ignore)) for seed in range(2)]
    await until(lambda: bool(joined))  # by the first turn; the other sample may have to wait for the next
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    cancelled.set()
    assert all(task.cancelled() for task in tasks)
    await run(generators, job(7, guidance=2.0), job(8, guidance=2.0))
    await until(lambda: reports.slots == 0)


@pytest.mark.parametrize("prefix", ["none", "sos_class"])
async def test_models_as_released_are_served(prefix: Any, tmp_path: Path) -> None:
    """Frame prediction has no class and needs frames; a start token alone means no class."""
    debug = GENERATOR_CONFIGS["lm-debug"]
    assert isinstance(debug, LanguageModelConfig)
    predicts = prefix == "none"
    sampling = SamplingDefaults(guidance=1.0 if predicts else 2.5)
    config = replace(
        debug, prefix=prefix, classes=0 if predicts else 4, null_class=False, positions=96, sampling=sampling
    )
    names = () if predicts else CLASSES
    save_generator(tmp_path / "lm", make_generator(config).eval(), "Random weights for tests.", "a" * 64, names)
    generators = LocalGenerators(GeneratorEngine.load([tmp_path / "lm"], "cpu", 1, OPTIONS), SETTINGS, Reports())
    [card] = await generators.generators()
    assert (card.needs_prefix, card.makes) == (predicts, ("video",) if predicts else ("image", "video"))
    assert (card.unconditional, card.guided) == (predicts, not predicts)
    jobs = [replace(job(seed, 3, prompt=2), params=card.defaults) for seed in range(3)]
    jobs = [replace(one, class_id=None) for one in jobs] if predicts else jobs
    crowd = await run(generators, *jobs)
    [alone] = await run(generators, jobs[1])
    np.testing.assert_array_equal(alone, crowd[1])
    np.testing.assert_array_equal(alone[:2], jobs[1].prompt)
    generators.close()


def test_a_damaged_bundle_and_a_name_twice_are_refused(paths: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Two generators"):
        GeneratorEngine.load([paths[0], paths[0]], "cpu", 1, OPTIONS)
    with pytest.raises(BundleError):
        GeneratorEngine.load([tmp_path], "cpu", 1, OPTIONS)
