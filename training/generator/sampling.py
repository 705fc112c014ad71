"""Samples of a generator in training: its codes by class, and their pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.generator.diffusion_sampling import StepFactors, denoise_step, guide, restore_latents, step_factors
from model.generator.dit import DiT
from model.generator.kv_cache import KVCache
from model.generator.lm import LanguageModel
from model.generator.networks import Generator
from model.generator.noise_schedule import NoiseSchedule
from model.generator.sampling import RowSampling, SamplingParams, row_seed, sample
from model.tokenizer.tokenizer import OmniTokenizer

ROWS_AT_ONCE = {"cpu": 16, "cuda": 64}


def sample_pixels(
    network: Generator, tokenizer: OmniTokenizer, labels: Sequence[int], frames: int, seed: int = 0
) -> Iterator[NDArray[np.uint8]]:
    """Yield samples with the network's own defaults of sampling: uint8 (N, T, H, W, 3), a few at a time.

    Args:
        network: in evaluation mode.
        tokenizer: whose codes it makes, on the same device.
        labels: class of each sample.
        frames: latent frames.
        seed: sample i has a seed of its own, whatever else is sampled.
    """
    size = ROWS_AT_ONCE[next(network.parameters()).device.type]
    for start in range(0, len(labels), size):
        part = labels[start : start + size]
        seeds = [row_seed(seed, index) for index in range(start, start + len(part))]
        yield tokenizer.decode(sample_codes(network, part, frames, seeds)).cpu().numpy()


def sample_codes(network: Generator, labels: Sequence[int], frames: int, seeds: Sequence[int]) -> Tensor:
    """Return the codes of one sample for each label: tokens (N, t, h, w), or latents (N, t, h, w, c)."""
    if isinstance(network, LanguageModel):
        return _sample_tokens(network, labels, frames, seeds)
    return _sample_latents(network, labels, frames, seeds)


@torch.inference_mode()
def _sample_latents(network: DiT, labels: Sequence[int], frames: int, seeds: Sequence[int]) -> Tensor:
    config, device = network.config, next(network.parameters()).device
    defaults, count = config.sampling, len(labels)
    schedule = NoiseSchedule.linear(config.timesteps).respaced(defaults.steps)
    factors = step_factors(schedule, defaults.sampler).to(device)
    classes = torch.tensor([*labels, *[config.null_class] * count], device=device)
    scale = torch.full((count,), defaults.guidance, device=device)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    shape = frames, *config.grid[1:], config.channels

    def draw() -> Tensor:
        return torch.stack([torch.randn(shape, generator=generator) for generator in generators]).to(device)

    x = draw()
    for index in reversed(range(len(schedule))):
        timesteps = schedule.timesteps[index].expand(2 * count).to(device)
        conditional, unconditional = network(x.repeat(2, 1, 1, 1, 1), timesteps, classes).float().chunk(2)
        prediction = guide(conditional, unconditional, scale, config.guidance_channels or config.channels)
        noise = draw() if defaults.sampler == "ddpm" else None
        x = denoise_step(x, prediction, StepFactors(*factors[index]), noise)
    return restore_latents(x, config)


@torch.inference_mode()
def _sample_tokens(network: LanguageModel, labels: Sequence[int], frames: int, seeds: Sequence[int]) -> Tensor:
    config, device = network.config, next(network.parameters()).device
    defaults, guided = config.sampling, config.sampling.guidance != 1
    prefixes = [config.prefix_ids(label) for label in labels]
    if guided:
        prefixes += [config.unconditional_prefix_ids()] * len(labels)
    ids = torch.tensor([prefix.ids for prefix in prefixes], device=device)
    positions = torch.tensor([prefix.positions for prefix in prefixes], device=device)
    rows, known = ids.shape
    length = frames * config.grid[1] * config.grid[2]
    cache = KVCache(config.layers, rows, config.heads, known + length - 1, config.head_dim, device=device)
    slots, lengths = torch.arange(rows, device=device), torch.full((rows,), known, device=device)
    params = [
        SamplingParams(
            defaults.temperature, defaults.top_k, defaults.top_p, defaults.guidance, defaults.guidance_growth, seed
        )
        for seed in seeds
    ]
    settings = RowSampling.of(params, device)
    logits = network.prefill(ids, positions, cache, slots, lengths)
    drawn: list[Tensor] = []
    while True:
        step = torch.full((len(labels),), len(drawn), device=device)
        conditional, unconditional = logits[: len(labels)], logits[len(labels) :] if guided else None
        drawn.append(sample(conditional, unconditional, settings, step, config.code_offset))
        if len(drawn) == length:
            break
        new = drawn[-1].repeat(2) if guided else drawn[-1]
        lengths = lengths + 1
        logits = network.step(new, lengths - 1, cache, slots, lengths)
    return (torch.stack(drawn, dim=1) - config.code_offset).unflatten(1, (frames, *config.grid[1:]))
