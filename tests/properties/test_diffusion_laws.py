"""Laws of diffusion: batches, seeds, guidance, modulations made ahead, respaced schedules and forecast features."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import kernels
from kernels.gelu_linear.library import Shape
from model.config_checks import ConfigError
from model.generator.diffusion_config import DIFFUSION_CONFIGS, DiffusionConfig, DiffusionDefaults
from model.generator.diffusion_sampling import (
    DiffusionItem,
    DiffusionParams,
    FeatureCache,
    FeatureHistory,
    StepFactors,
    denoise_step,
    restore_latents,
    step_factors,
)
from model.generator.dit import DiT, assemble, patchify
from model.generator.noise_schedule import NoiseSchedule, ScheduleError
from model.inference import diffusion_network
from model.inference.diffusion import DiffusionError, DiffusionSampler
from model.inference.diffusion_network import LinearWeights

ROUNDING = 1e-5  # of products whose order depends on the batch, of the largest value


def network(name: str, **changes: object) -> DiT:
    """Return a small network with random weights everywhere; fresh ones are zero where blocks end."""
    torch.manual_seed(0)
    model = DiT(replace(DIFFUSION_CONFIGS[name], **changes)).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.normal_(std=0.15)
    return model


@pytest.fixture(scope="module", params=["dit-debug", "latte-debug"])
def model(request: pytest.FixtureRequest) -> DiT:
    return network(request.param)


@pytest.fixture(scope="module")
def sampler(model: DiT) -> DiffusionSampler:
    return DiffusionSampler(model)


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=0, atol=ROUNDING * wanted.abs().max().item())


def noisy(config: DiffusionConfig, items: int) -> Tensor:
    return torch.randn(items, *config.grid, config.channels)


@torch.inference_mode()
def test_the_algorithm_is_chosen_for_the_products_of_a_step(model, sampler, monkeypatch):
    chosen, ran, run = [], [], kernels.gelu_linear
    monkeypatch.setattr(diffusion_network, "choose_algorithm", chosen.append)

    def product(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ran.append(Shape.of(x.flatten(0, -2), weight))
        return run(x, weight, bias)

    monkeypatch.setattr(kernels, "gelu_linear", product)
    sampler.network.choose_algorithms(3, model.config.grid[0])
    modulation = sampler.network.modulate(torch.tensor([0, 400, 999]), torch.tensor([0, 3, 4]))
    sampler.network.features(noisy(model.config, 3), modulation)
    assert chosen == [*set(ran)]


@torch.inference_mode()
def test_modulations_made_ahead_are_those_made_inside(model, sampler):
    x, timesteps, classes = noisy(model.config, 3), torch.tensor([0, 400, 999]), torch.tensor([0, 3, 4])
    table = sampler.network.modulate(timesteps, classes)
    want = model(x, timesteps, classes)
    close(model.denoise(x, table), want)
    features = sampler.network.features(x, table)
    close(sampler.network.predict(features.normed, x.shape[1]), want)
    close(sampler.network.normalize(features.tokens, table), features.normed)


def test_parts_of_a_product_sum_to_it():
    layer, x = torch.nn.Linear(24, 5), torch.randn(2, 3, 24)
    weights = LinearWeights.of(layer, torch.device("cpu"), torch.float32)
    parts = weights.in_parts(x, 4)
    assert parts.shape == (4, 2, 3, 5)
    torch.testing.assert_close(parts.sum(0) + weights.bias, layer(x).detach())


@pytest.mark.parametrize("kind", ["ddim", "ddpm"])
def test_a_seed_gives_the_same_sample_alone_and_in_a_crowd(sampler, kind):
    params = DiffusionParams(steps=4, sampler=kind)
    items = [DiffusionItem(0, 7, 2.0), DiffusionItem(2, 8), DiffusionItem(None, 9), DiffusionItem(3, 7, 3.0)]
    together = sampler.sample(items, params)
    for item, sample in zip(items, together, strict=True):
        close(sampler.sample([item], params)[0], sample)
    assert not torch.allclose(together[0], together[3], atol=1e-2)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_items_that_join_and_leave_change_no_other(sampler, guidance):
    params = [DiffusionParams(steps, kind) for steps, kind in ((5, "ddim"), (3, "ddpm"), (20, "ddpm"), (4, "ddim"))]
    items = [DiffusionItem(seed % 4, seed, guidance) for seed in range(4)]
    runs = []
    for turn in range(24):
        if turn < 4:
            runs.append(sampler.begin(items[turn], params[turn]))
        sampler.step([run for run in runs if not run.finished])
    for run, item, own in zip(runs, items, params, strict=True):
        close(run.latents(), sampler.sample([item], own)[0])


@pytest.mark.parametrize("kind", ["ddim", "ddpm"])
def test_sampling_is_deterministic(sampler, kind):
    items, params = [DiffusionItem(1, 5, 2.0)], DiffusionParams(steps=3, sampler=kind)
    first = sampler.sample(items, params)
    assert torch.equal(sampler.sample(items, params), first)
    other = sampler.sample([replace(items[0], seed=6)], params)
    assert not torch.allclose(other, first, atol=1e-2)


def test_runs_that_take_turns_do_not_see_each_other(sampler):
    params = DiffusionParams(steps=4, cache=FeatureCache(interval=2, full_steps=1))
    items = [DiffusionItem(0, 1, 2.0), DiffusionItem(1, 2, 3.0), DiffusionItem(1, 3, 3.0)]
    runs = [sampler.begin(item, params) for item in items]
    sampler.step(runs[:1])  # from here on, one computes features while others forecast theirs
    for _ in range(params.steps):
        sampler.step([run for run in runs if not run.finished])
    for run, item in zip(runs, items, strict=True):
        assert run.finished
        close(run.latents(), sampler.sample([item], params)[0])


def test_guidance_of_one_is_none(sampler):
    params = DiffusionParams(steps=3)
    alone = sampler.sample([DiffusionItem(1, 3)], params)
    beside_guided = sampler.sample([DiffusionItem(1, 3), DiffusionItem(2, 4, 5.0)], params)
    close(beside_guided[:1], alone)


def test_guidance_acts_on_the_channels_of_the_config():
    plain = network("dit-debug")
    partial = network("dit-debug", guidance_channels=3)
    params, item = DiffusionParams(steps=1), DiffusionItem(1, 3, 4.0)
    samples = [DiffusionSampler(model).sample([item], params) for model in (plain, partial)]
    unguided = DiffusionSampler(plain).sample([replace(item, guidance=1.0)], params)
    close(samples[1][..., :3], samples[0][..., :3])
    close(samples[1][..., 3:], unguided[..., 3:])
    assert not torch.allclose(samples[0][..., 3:], unguided[..., 3:], atol=1e-2)


def test_fewer_frames_are_the_networks_own_shape():
    model = network("latte-debug")
    sample = DiffusionSampler(model).sample([DiffusionItem(0, 0)], DiffusionParams(steps=2, frames=2))
    assert sample.shape == (1, 2, *model.config.grid[1:], model.config.channels)


def test_an_interval_of_one_is_no_cache(sampler):
    items = [DiffusionItem(1, 5, 2.0)]
    cached = sampler.sample(items, DiffusionParams(steps=6, cache=FeatureCache(interval=1, order=2)))
    assert torch.equal(cached, sampler.sample(items, DiffusionParams(steps=6)))


def test_a_cache_runs_the_network_at_its_interval_only(sampler):
    runs = [FeatureCache(interval=3, full_steps=2).runs(step) for step in range(10)]
    assert [step for step, run in enumerate(runs) if run] == [0, 1, 4, 7]
    items = [DiffusionItem(1, 5, 2.0)]
    cached = sampler.sample(items, DiffusionParams(steps=8, cache=FeatureCache(interval=2, order=1)))
    assert cached.isfinite().all()
    assert not torch.equal(cached, sampler.sample(items, DiffusionParams(steps=8)))


@pytest.mark.parametrize("order", [0, 1, 2])
def test_a_forecast_of_an_order_is_exact_for_lines_and_constants(order):
    history = FeatureHistory(order)
    for step in (0, 1, 4, 6):
        history.update(step, torch.tensor([3.0 + (2.0 * step if order else 0.0)]))
    assert history.forecast(8).item() == pytest.approx(19.0 if order else 3.0)


@pytest.mark.parametrize("count", [25, 1000])
def test_all_timesteps_are_the_original_schedule(count):
    schedule = NoiseSchedule.linear(count)
    again = schedule.respaced(count)
    for name in ("timesteps", "betas", "alphas_cumprod"):
        assert torch.equal(getattr(again, name), getattr(schedule, name))


@pytest.mark.parametrize("steps", [1, 2, 10, 50, 250, 999])
def test_a_respaced_schedule_keeps_the_variances_of_its_timesteps(steps):
    schedule = NoiseSchedule.linear()
    respaced = schedule.respaced(steps)
    assert len(respaced) == steps
    assert respaced.timesteps[-1] == 999
    assert (respaced.timesteps.diff() > 0).all()
    torch.testing.assert_close((1 - respaced.betas).cumprod(0), schedule.alphas_cumprod[respaced.timesteps])
    assert step_factors(respaced, "ddpm").isfinite().all()
    assert step_factors(respaced, "ddim").isfinite().all()


@pytest.mark.parametrize("kind", ["ddim", "ddpm"])
def test_a_perfect_network_leads_to_the_data(kind):
    torch.manual_seed(0)
    schedule = NoiseSchedule.linear().respaced(20)
    factors, data = step_factors(schedule, kind), torch.randn(2, 1, 4, 4, 3)
    x = torch.randn_like(data)
    for step in reversed(range(20)):
        kept = schedule.alphas_cumprod[step].float()
        epsilon = (x - kept.sqrt() * data) / (1 - kept).sqrt()
        prediction = torch.cat((epsilon, torch.zeros_like(epsilon)), dim=-1)
        noise = torch.randn_like(x) if kind == "ddpm" else None
        x = denoise_step(x, prediction, StepFactors(*factors[step]), noise)
    torch.testing.assert_close(x, data, rtol=0, atol=1e-2)


def test_noise_of_training_has_the_schedules_variance():
    torch.manual_seed(0)
    schedule, data = NoiseSchedule.linear(), torch.full((2, 64, 64), 2.0)
    signal, spread = (factors[[0, 999], None, None].float() for factors in schedule.noise_factors)
    out = signal * data + spread * torch.randn_like(data)
    torch.testing.assert_close(out[0], data[0], rtol=0, atol=0.1)
    assert out[1].mean().item() == pytest.approx(0, abs=0.1)
    assert out[1].std().item() == pytest.approx(1, abs=0.05)


def test_patches_return_to_their_places():
    x = torch.randn(2, 3, 4, 6, 5)
    assert torch.equal(assemble(patchify(x, 2), 2, (4, 6)), x)


@pytest.mark.parametrize("shift", [0.0, (0.1, -0.2, 0.3, 4.0)])
@pytest.mark.parametrize("scale", [0.18215, (0.5, 1.0, 2.0, 3.0)])
def test_latents_survive_their_normalisation(shift, scale):
    config = replace(DIFFUSION_CONFIGS["dit-debug"], latent_scale=scale, latent_shift=shift)
    latents = torch.randn(1, 1, 8, 8, 4)
    torch.testing.assert_close(restore_latents((latents - torch.tensor(shift)) * torch.tensor(scale), config), latents)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grid": (1, 7, 8)}, "must be a multiple of patch=2"),
        ({"grid": [1, 8, 8]}, "grid must be three integers"),
        ({"heads": 3}, "must be a multiple of heads=3"),
        ({"layers": 0}, "layers must be an integer"),
        ({"latent_scale": 0.0}, "latent_scale must be positive"),
        ({"latent_scale": (1.0, 2.0)}, "latent_scale must be a finite number, or 4 of them"),
        ({"latent_shift": float("nan")}, "latent_shift must be a finite number"),
        ({"guidance_channels": 5}, "guidance_channels must be an integer from 1 to 4"),
        ({"timesteps": 20}, "timesteps must be an integer from 21"),
        ({"timesteps": 30, "sampling": DiffusionDefaults(steps=31)}, "must be at most timesteps=30"),
        ({"sampling": {}}, "sampling must be DiffusionDefaults"),
    ],
)
def test_configs_that_describe_no_model_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        replace(DIFFUSION_CONFIGS["dit-debug"], **change)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DiffusionParams(steps=0), "steps must be an integer from 1"),
        (lambda: DiffusionParams(sampler="euler"), "sampler must be one of ddim, ddpm"),
        (lambda: DiffusionParams(frames=0), "frames must be an integer"),
        (lambda: DiffusionParams(cache=3), "cache must be a FeatureCache"),
        (lambda: FeatureCache(interval=0), "interval must be an integer"),
        (lambda: FeatureCache(order=5), "order must be an integer from 0 to 4"),
        (lambda: DiffusionItem(-1, 0), "class_id must be an integer"),
        (lambda: DiffusionItem(0, -1), "seed must be an integer"),
        (lambda: DiffusionItem(0, 0, float("nan")), "guidance must be a number"),
        (lambda: DiffusionItem(0, 0, -1.0), "guidance must be a number"),
    ],
)
def test_bad_options_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_what_a_model_cannot_make_is_refused(sampler):
    item = DiffusionItem(0, 0)
    with pytest.raises(DiffusionError, match="one item at least"):
        sampler.sample([], DiffusionParams())
    with pytest.raises(DiffusionError, match="Class 4 must be below 4"):
        sampler.sample([item, DiffusionItem(4, 0)], DiffusionParams())
    with pytest.raises(DiffusionError, match="steps=1001 must be at most 1000"):
        sampler.sample([item], DiffusionParams(steps=1001))
    with pytest.raises(DiffusionError, match="frames=9 must be at most"):
        sampler.sample([item], DiffusionParams(frames=9))
    with pytest.raises(ScheduleError, match="steps=1001 must be from 1 to 1000"):
        NoiseSchedule.linear().respaced(1001)
    with pytest.raises(ScheduleError, match="timesteps=20 must be at least 21"):
        NoiseSchedule.linear(20)


def test_a_callers_error_ends_the_run(sampler):
    done = []

    def on_step(step: int, steps: int) -> None:
        done.append((step, steps))
        if step == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        sampler.sample([DiffusionItem(0, 0)], DiffusionParams(steps=5), on_step)
    assert done == [(1, 5), (2, 5)]
