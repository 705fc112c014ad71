"""A diffusion model as a lane, with tiny random weights on a CPU."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
import torch
from torch import Tensor

from model.bundle import load_generator, save_generator
from model.generator.config import GENERATOR_CONFIGS
from model.generator.networks import make_generator
from model.inference.diffusion_network import DenoisingNetwork
from service.engine import diffusion_lane
from service.engine.diffusion_lane import DiffusionLane
from service.engine.generator import GeneratorEngine
from service.engine.lane import LaneOptions, quickest
from service.in_process import LocalGenerators, Unobserved
from service.settings import Settings
from service.types import GenerateJob, GenerateParams, JobProgress

STEPS = 4


@pytest.fixture(scope="module")
def lane(tmp_path_factory: pytest.TempPathFactory) -> DiffusionLane:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("bundles") / "latte"
    network = make_generator(GENERATOR_CONFIGS["latte-debug"]).eval()
    save_generator(path, network, "Random weights for tests.", "a" * 64, ("ant", "bee", "cow", "dog"))
    return DiffusionLane(load_generator(path), torch.device("cpu"), LaneOptions(8, 8))


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows that the network sees at each run of it."""
    seen: list[int] = []
    features = DenoisingNetwork.features

    def counted(self: DenoisingNetwork, x: Tensor, modulation: Tensor) -> object:
        seen.append(len(x))
        return features(self, x, modulation)

    monkeypatch.setattr(DenoisingNetwork, "features", counted)
    return seen


def job(seed: int, guidance: float = 2.0, frames: int = 1, **params: object) -> GenerateJob:
    given = GenerateParams(**({"guidance": guidance, "steps": STEPS} | params))
    return GenerateJob("latte", seed % 4, frames, given, seed)


@torch.inference_mode()
def run(lane: DiffusionLane, jobs: dict[int, GenerateJob]) -> dict[int, np.ndarray]:
    """Run jobs to their ends; job n joins before step n."""
    made: dict[int, np.ndarray] = {}
    left: dict[int, int] = {}
    for turn in range(100):
        if turn in jobs:
            lane.join(turn, jobs[turn])
            left[turn] = jobs[turn].params.steps
        if left:
            lane.step(list(left))
        for number in [number for number in left if left[number] == 1]:
            made[number] = lane.finish(number)
            lane.leave(number)
        left = {number: steps - 1 for number, steps in left.items() if steps > 1}
    return made


def test_the_step_of_a_start_is_the_quickest_of_a_few(lane: DiffusionLane, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 9.0, 10.0, 10.5, 11.0, 15.0])
    monkeypatch.setattr(diffusion_lane, "quickest", lambda step, count: quickest(step, count, lambda: next(times)))
    lane.warm_up()
    assert lane.card.step_seconds == 0.5


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_jobs_join_at_any_step_and_share_its_batch(lane: DiffusionLane, rows: list[int], sampler: str) -> None:
    jobs = {0: job(0, sampler=sampler), 1: job(1), 2: job(2, steps=2, sampler=sampler)}
    made = run(lane, jobs)
    assert rows == [2, 4, 6, 6, 2]
    for number in jobs:
        np.testing.assert_allclose(made[number], run(lane, {0: jobs[number]})[0], atol=1e-4)


def test_jobs_of_other_shapes_advance_in_the_same_turn(lane: DiffusionLane, rows: list[int]) -> None:
    jobs = {0: job(0, frames=3), 1: job(1, guidance=1.0, frames=3), 2: job(2)}
    made = run(lane, jobs)
    assert rows == [2, 2, 1, 2, 1, 2, 2, 1, 2, 1, 2, 2]
    for number in jobs:
        np.testing.assert_allclose(made[number], run(lane, {0: jobs[number]})[0], atol=1e-4)


async def test_a_long_request_holds_up_no_other(lane: DiffusionLane) -> None:
    generators = LocalGenerators(GeneratorEngine([lane]), Settings(generate_seconds=240), Unobserved())

    def ignore(progress: JobProgress) -> None: ...

    # twice what one step takes, of another shape, and too long for a test
    crowd = [asyncio.create_task(generators.generate(job(seed, steps=1000, frames=3), ignore)) for seed in range(8)]
    try:
        made = await generators.generate(job(9), ignore)
        assert not any(task.done() for task in crowd)
        assert made.latents is not None
        np.testing.assert_allclose(made.latents, run(lane, {0: job(9)})[0], atol=1e-4)
    finally:
        for task in crowd:
            task.cancel()
        await asyncio.gather(*crowd, return_exceptions=True)
        generators.close()
