"""The training step of diffusion: noise prediction, and the variance by the variational bound (section 3.2)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from model.generator.diffusion_config import DiffusionConfig
from model.generator.dit import DiT
from model.generator.noise_schedule import NoiseSchedule
from training.distributed import Ranks
from training.generator.step import GeneratorStep
from training.generator.token_dataset import CodeBatch
from training.recipes import GeneratorStage
from training.rng import TIMESTEPS, random_ints, random_normal


class DiffusionStep(GeneratorStep[DiT]):
    """Training of DiT or Latte on normalised latents.

    The loss is the mean squared error of the predicted noise plus the bound's term of the drawn timestep, in bits a
    dimension. The bound trains the variance alone: its mean is held fixed (Nichol and Dhariwal, 2021, section 3.1).

    Args:
        network, stage, seed, ranks: as for `GeneratorStep`.
    """

    columns: tuple[str, ...] = (
        "step", "kind", "seconds", "resolution", "loss", "squared_error", "bound", "grad_norm", "learning_rate",
        "steps_per_second",
    )  # fmt: skip

    def __init__(self, network: DiT, stage: GeneratorStage, seed: int, ranks: Ranks | None = None) -> None:
        super().__init__(network, stage, seed, ranks)
        config = network.config
        schedule = NoiseSchedule.linear(config.timesteps)
        least, most = schedule.log_variance_range
        from_start, from_noisy = schedule.posterior_mean_factors
        tables = torch.stack([*schedule.noise_factors, from_start, from_noisy, least, most])
        self.tables = tables.to(self.device, torch.float32)  # (6, timesteps)
        # sent to the device once: a captured step cannot
        self.scale, self.shift = (
            torch.tensor(value, device=self.device) for value in (config.latent_scale, config.latent_shift)
        )

    @property
    def config(self) -> DiffusionConfig:
        """Return the network's config."""
        return self.network.config

    def losses(self, network: DiT, batch: CodeBatch, first: int) -> dict[str, Tensor]:
        """Return the loss with its two parts."""
        x = (batch.codes - self.shift) * self.scale
        drawn = random_ints(self.seed, TIMESTEPS, self.number, first, len(x))
        timesteps = drawn % self.config.timesteps
        noise = random_normal(self.seed, self.number, first, x.shape)
        signal, spread, from_start, from_noisy, least, most = self.tables[:, timesteps].view(6, -1, 1, 1, 1, 1)
        noisy = signal * x + spread * noise
        predicted, share = network(noisy, timesteps, batch.labels).float().chunk(2, dim=-1)
        squared_error = (predicted - noise).square().mean()

        log_variance = least + (share + 1) / 2 * (most - least)
        start = (noisy - spread * predicted.detach()) / signal
        mean = from_start * start + from_noisy * noisy
        true_mean = from_start * x + from_noisy * noisy
        squared_distance = (true_mean - mean).square() * (-log_variance).exp()
        divergence = 0.5 * (log_variance - least + (least - log_variance).exp() - 1 + squared_distance)
        likelihood = 0.5 * (math.log(2 * math.pi) + log_variance + squared_distance)
        is_last = (timesteps == 0).view(-1, 1, 1, 1, 1)  # the step that ends at the data itself
        bound = torch.where(is_last, likelihood, divergence).mean() / math.log(2)
        bound = bound * (self.config.timesteps / 1000)
        return {"loss": squared_error + bound, "squared_error": squared_error, "bound": bound}
