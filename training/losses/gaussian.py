"""Equation 2: the divergence of the posterior from the standard normal distribution, for KL fine-tuning."""

from __future__ import annotations

from torch import Tensor


def gaussian_kl(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mean, exp(logvar)) || N(0, 1)) in nats: summed over an item's latents, averaged over the batch.

    Because it is a sum, the weight lambda_3 = 1e-6 of the paper is small and still felt.

    Args:
        mean: float (B, ...), means of the latents.
        logvar: float (B, ...), their log variances.
    """
    mean, logvar = mean.flatten(1), logvar.flatten(1)
    return 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).sum(1).mean()
