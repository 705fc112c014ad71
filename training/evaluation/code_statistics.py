"""Statistics of the codes of a set: use of a codebook, or moments of a VAE's latents."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from model.tokenizer.config import VQConfig
from model.tokenizer.tokenizer import OmniTokenizer
from training.tokenizer.codebook import usage


class CodebookUsage:
    """Counts tokens as they come.

    Args:
        codes: entries of the codebook.
    """

    def __init__(self, codes: int) -> None:
        self.counts = torch.zeros(codes, dtype=torch.int64)

    def encode(self, tokenizer: OmniTokenizer, pixels: Tensor) -> Tensor:
        """Encode uint8 pixels (N, T, H, W, 3) to tokens, and count them."""
        tokens = tokenizer.encode(pixels)
        self.update(tokens)
        return tokens

    def update(self, tokens: Tensor) -> None:
        """Count int64 tokens of any shape, each below the number of codes."""
        self.counts += torch.bincount(tokens.flatten(), minlength=len(self.counts)).cpu()

    def merge(self, other: CodebookUsage) -> None:
        """Add the counts of another set."""
        self.counts += other.counts

    def compute(self) -> dict[str, Any]:
        """Return the number of tokens, the share of the codes that they use, and 2 to their entropy in bits."""
        share, perplexity = usage(self.counts)
        return {"tokens": int(self.counts.sum()), "usage": float(share), "perplexity": float(perplexity)}


class LatentStatistics:
    """Means, spreads and divergence from the unit Gaussian, gathered as latents come, in double precision.

    Args:
        channels: of the latents.
    """

    def __init__(self, channels: int) -> None:
        self.count = torch.zeros((), dtype=torch.int64)
        self.sum, self.squares, self.divergence = (torch.zeros(channels, dtype=torch.float64) for _ in range(3))

    def encode(self, tokenizer: OmniTokenizer, pixels: Tensor) -> Tensor:
        """Encode uint8 pixels (N, T, H, W, 3) to the means of their latents, and gather these."""
        mean, logvar = tokenizer.encode_moments(pixels)
        self.update(mean, logvar)
        return mean

    def update(self, mean: Tensor, logvar: Tensor) -> None:
        """Gather the means and log variances of latents, each (..., channels)."""
        flat, spread = (values.flatten(0, -2).double().cpu() for values in (mean, logvar))
        self.count += len(flat)
        self.sum += flat.sum(dim=0)
        self.squares += flat.square().sum(dim=0)
        self.divergence += 0.5 * (flat.square() + spread.exp() - 1 - spread).sum(dim=0)

    def merge(self, other: LatentStatistics) -> None:
        """Add what another set gave."""
        for name, total in vars(self).items():
            total += getattr(other, name)

    def compute(self) -> dict[str, Any]:
        """Return by channel the mean and standard deviation of the latents' means, and the mean divergence.

        `kl` is in nats for each position of the grid, summed over its channels.
        """
        mean = self.sum / self.count
        variance = (self.squares / self.count - mean.square()).clamp_min(0)
        return {
            "latents": int(self.count),
            "mean": mean.tolist(),
            "deviation": variance.sqrt().tolist(),
            "kl": float(self.divergence.sum() / self.count),
        }


def code_statistics(tokenizer: OmniTokenizer) -> CodebookUsage | LatentStatistics:
    """Return empty statistics of the codes that a tokenizer gives."""
    head = tokenizer.config.head
    return CodebookUsage(head.codes) if isinstance(head, VQConfig) else LatentStatistics(head.dim)
