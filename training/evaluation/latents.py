"""Statistics of a VAE's latents."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class LatentStatistics:
    """Means, spreads and divergence from the unit Gaussian, gathered as latents come, in double precision.

    Args:
        channels: of the latents.
    """

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.sum, self.squares, self.divergence = (torch.zeros(channels, dtype=torch.float64) for _ in range(3))

    def update(self, mean: Tensor, logvar: Tensor) -> None:
        """Take in the means and log variances of latents, each (..., channels)."""
        flat, spread = (values.flatten(0, -2).double().cpu() for values in (mean, logvar))
        self.count += len(flat)
        self.sum += flat.sum(dim=0)
        self.squares += flat.square().sum(dim=0)
        self.divergence += 0.5 * (flat.square() + spread.exp() - 1 - spread).sum(dim=0)

    def add(self, other: LatentStatistics) -> None:
        """Take in what another one has gathered."""
        self.count += other.count
        self.sum += other.sum
        self.squares += other.squares
        self.divergence += other.divergence

    def figures(self) -> dict[str, Any]:
        """By channel the mean and standard deviation of the latents' means, and over all channels the mean divergence.

        `kl` is in nats for each position of the grid, summed over its channels.
        """
        mean = self.sum / self.count
        variance = (self.squares / self.count - mean.square()).clamp_min(0)
        return {
            "latents": self.count,
            "mean": mean.tolist(),
            "deviation": variance.sqrt().tolist(),
            "kl": float(self.divergence.sum() / self.count),
        }
