"""The noise schedule of diffusion: linear betas, respaced to fewer steps (section 3.2; docs/model.md, Diffusion)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from model.generator.limits import MIN_TIMESTEPS

FIRST_BETA, LAST_BETA = 1e-4, 0.02  # of 1000 timesteps


class ScheduleError(ValueError):
    """A number of steps that a schedule cannot have."""


@dataclass(frozen=True)
class NoiseSchedule:
    """Coefficients of a chain of denoising steps, index 0 the least noisy; float64 (S,), on the CPU.

    Args:
        timesteps: int64, the timestep of the model's training that each step hands to the network.
        betas: variance that each step adds.
        alphas_cumprod: variance of the signal that is left after each step.
    """

    timesteps: Tensor
    betas: Tensor
    alphas_cumprod: Tensor

    @classmethod
    def linear(cls, timesteps: int = 1000) -> NoiseSchedule:
        """Return the schedule of training, betas scaled so that the last timestep is nearly pure noise."""
        if timesteps < MIN_TIMESTEPS:
            raise ScheduleError(f"timesteps={timesteps} must be at least {MIN_TIMESTEPS}.")
        scale = 1000 / timesteps
        betas = torch.linspace(scale * FIRST_BETA, scale * LAST_BETA, timesteps, dtype=torch.float64)
        return cls(torch.arange(timesteps), betas, (1 - betas).cumprod(0))

    def respaced(self, steps: int) -> NoiseSchedule:
        """Return the schedule of evenly spaced timesteps, from the first to the last; one step starts at the last.

        Args:
            steps: from 1 to the number of timesteps; all of them give this schedule again.

        Raises:
            ScheduleError: more steps than there are timesteps, or none.
        """
        count = len(self)
        if not 1 <= steps <= count:
            raise ScheduleError(f"steps={steps} must be from 1 to {count}.")
        if steps == count:
            return self
        stride = (count - 1) / max(1, steps - 1)
        kept = torch.tensor([round(index * stride) for index in range(steps)] if steps > 1 else [count - 1])
        alphas_cumprod = self.alphas_cumprod[kept]
        before = torch.cat((alphas_cumprod.new_ones(1), alphas_cumprod[:-1]))
        return NoiseSchedule(self.timesteps[kept], 1 - alphas_cumprod / before, alphas_cumprod)

    def __len__(self) -> int:
        return len(self.timesteps)

    @property
    def alphas_cumprod_before(self) -> Tensor:
        """Return the signal's variance that is left before each step; 1 before the first."""
        return torch.cat((self.alphas_cumprod.new_ones(1), self.alphas_cumprod[:-1]))

    @property
    def posterior_variance(self) -> Tensor:
        """Return the variance of q(x_(t-1) | x_t, x_0)."""
        return self.betas * (1 - self.alphas_cumprod_before) / (1 - self.alphas_cumprod)

    @property
    def log_variance_range(self) -> tuple[Tensor, Tensor]:
        """Return the logarithms between which the network's variance is learned: posterior and beta.

        The first posterior is zero and takes the place of the second.
        """
        posterior = self.posterior_variance
        posterior = torch.cat((posterior[1:2], posterior[1:])) if len(self) > 1 else self.betas
        return posterior.log(), self.betas.log()

    @property
    def posterior_mean_factors(self) -> tuple[Tensor, Tensor]:
        """Return the factors of x_0 and of x_t in the mean of q(x_(t-1) | x_t, x_0)."""
        before, rest = self.alphas_cumprod_before, 1 - self.alphas_cumprod
        return self.betas * before.sqrt() / rest, (1 - before) * (1 - self.betas).sqrt() / rest

    @property
    def noise_factors(self) -> tuple[Tensor, Tensor]:
        """Return the factors of x_0 and of the noise in a draw of q(x_t | x_0)."""
        return self.alphas_cumprod.sqrt(), (1 - self.alphas_cumprod).sqrt()
