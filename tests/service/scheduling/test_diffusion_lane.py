"""A diffusion model as a lane, with tiny random weights on a CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from model.bundle import load_generator, save_generator
from model.generator.config import GENERATOR_CONFIGS
from model.generator.networks import make_generator
from model.inference.diffusion_network import DenoisingNetwork
from service.engine.diffusion_lane import DiffusionLane
from service.engine.lane import LaneOptions
from service.types import GenerateJob, GenerateParams

STEPS = 4


@pytest.fixture(scope="module")
def lane(tmp_path_factory: pytest.TempPathFactory) -> DiffusionLane:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("bundles") / "dit"
    network = make_generator(GENERATOR_CONFIGS["dit-debug"]).eval()
    save_generator(path, network, "Random weights for tests.", "a" * 64, ("ant", "bee", "cow", "dog"))
    return DiffusionLane(load_generator(path), torch.device("cpu"), LaneOptions(8, 8))


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows that the network sees at each step."""
    seen: list[int] = []
    features = DenoisingNetwork.features

    def counted(self: DenoisingNetwork, x: Tensor, modulation: Tensor) -> object:
        seen.append(len(x))
        return features(self, x, modulation)

    monkeypatch.setattr(DenoisingNetwork, "features", counted)
    return seen


def job(seed: int, guidance: float = 2.0) -> GenerateJob:
    return GenerateJob("dit", seed % 4, 1, GenerateParams(guidance=guidance, steps=STEPS), seed)


@torch.inference_mode()
def run(lane: DiffusionLane, jobs: dict[int, GenerateJob], leaving: dict[int, int]) -> dict[int, np.ndarray]:
    """Run a batch; `leaving` maps steps to the job that leaves before them."""
    for number, one in jobs.items():
        lane.join(number, one)
    for step in range(STEPS):
        if step in leaving:
            lane.leave(leaving[step])
        lane.step()
    kept = [number for number in jobs if number not in leaving.values()]
    made = {}
    for number in kept:
        made[number] = lane.finish(number)
        lane.leave(number)
    return made


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_a_sample_that_left_is_computed_no_more(lane: DiffusionLane, rows: list[int], guidance: float) -> None:
    jobs = {number: job(number, guidance) for number in range(4)}
    made = run(lane, jobs, {0: 3, 1: 0, 3: 2})
    each = 1 if guidance == 1 else 2
    assert rows == [3 * each, 2 * each, 2 * each, each]
    alone = run(lane, {1: jobs[1]}, {})
    np.testing.assert_allclose(made[1], alone[1], atol=1e-4)


def test_a_batch_ends_with_the_last_sample(lane: DiffusionLane, rows: list[int]) -> None:
    lane.join(0, job(0))
    with torch.inference_mode():
        lane.step()
    lane.leave(0)
    assert set(run(lane, {5: job(5)}, {})) == {5}
    assert rows == [2] * (1 + STEPS)
