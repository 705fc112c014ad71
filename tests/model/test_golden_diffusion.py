"""Published diffusion models give the published numbers, through convert and back from disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from golden_models import convert_generators, published_numbers
from torch import Tensor

from model.bundle import GeneratorBundle, load_generator
from model.generator.diffusion_sampling import StepFactors, denoise_step, guide, step_factors
from model.generator.dit import DiT
from model.generator.noise_schedule import NoiseSchedule
from model.inference.diffusion_network import DenoisingNetwork

FORWARD_BOUND, SAMPLE_BOUND = 1e-4, 1e-3
SCALE, GUIDED_TIMESTEP, STEPS = 2.0, 500, 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert_generators(tmp_path_factory.mktemp("bundles"), "vae_rope.ckpt", "dit.pt", "latte.pt")


@pytest.fixture(params=["dit", "latte"])
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def bundle(folder: Path, name: str, device: str) -> GeneratorBundle:
    return load_generator(folder / name, device)


@pytest.fixture
def expected(name: str, device: str) -> dict[str, Tensor]:
    return published_numbers(name, device)


def channels_last(x: Tensor) -> Tensor:
    """(B, C, h, w) or (B, t, C, h, w) to (B, t, h, w, C)."""
    return (x if x.dim() == 5 else x.unsqueeze(1)).permute(0, 1, 3, 4, 2)


@pytest.fixture(params=["module", "inference"])
def network(request: pytest.FixtureRequest, bundle: GeneratorBundle, device: str) -> DiT | DenoisingNetwork:
    assert isinstance(bundle.generator, DiT)
    if request.param == "module":
        return bundle.generator
    return DenoisingNetwork(bundle.generator, torch.device(device), torch.float32)


def predict(network: DiT | DenoisingNetwork, x: Tensor, timesteps: Tensor, classes: Tensor) -> Tensor:
    if isinstance(network, DiT):
        return network(x, timesteps, classes)
    features = network.features(x, network.modulate(timesteps, classes))
    return network.predict(features.normed, x.shape[1])


def guided(network: DiT | DenoisingNetwork, x: Tensor, timestep: int, classes: Tensor) -> Tensor:
    rows = torch.cat((classes, torch.full_like(classes, network.config.null_class)))
    out = predict(network, torch.cat((x, x)), torch.full_like(rows, timestep), rows)
    scale = torch.full((len(x),), SCALE, device=x.device)
    return guide(*out.chunk(2), scale, network.config.guidance_channels)


@torch.inference_mode()
def test_forward(network, expected, table, name):
    x, want = channels_last(expected["x"]), channels_last(expected["out"])
    error = (predict(network, x, expected["t"].long(), expected["y"].long()) - want).abs().max()
    table("published diffusion models: greatest differences", f"{name:6} forward {error:.1e}")
    assert error <= FORWARD_BOUND


@torch.inference_mode()
def test_guided_forward(network, expected):
    x, want = channels_last(expected["z"]), channels_last(expected["out_cfg_2.0"])
    out = guided(network, x, GUIDED_TIMESTEP, expected["y"].long())
    torch.testing.assert_close(out, want, rtol=0, atol=FORWARD_BOUND)


@torch.inference_mode()
def test_ddim(network, expected, table, name):
    x, classes = channels_last(expected["z"]), expected["y"].long()
    schedule = NoiseSchedule.linear().respaced(STEPS)
    factors = step_factors(schedule, "ddim").to(x.device)
    for step in reversed(range(STEPS)):
        prediction = guided(network, x, int(schedule.timesteps[step]), classes)
        x = denoise_step(x, prediction, StepFactors(*factors[step]), None)
    error = (x - channels_last(expected["ddim_10_steps_eta0_cfg_2.0"])).abs().max()
    table("published diffusion models: greatest differences", f"{name:6} DDIM    {error:.1e}")
    assert error <= SAMPLE_BOUND
