"""The losses of progressive training (section 3.1.2): functions of tensors, none of which waits for the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def reconstruction(out: Tensor, pixels: Tensor, l2: float, l1: float) -> Tensor:
    """Return `l2` times the mean squared error plus `l1` times the mean absolute error.

    The paper trains with L2 alone. L1 is for recipes that want sharper edges before a discriminator joins.

    Args:
        out: float (B, T, H, W, 3), the decoder's output, about [-0.5, 0.5].
        pixels: float (B, T, H, W, 3) in [-0.5, 0.5], whose precision the result has.
    """
    out = out.to(pixels.dtype)
    loss = l2 * F.mse_loss(out, pixels)
    return loss + l1 * F.l1_loss(out, pixels) if l1 else loss


def straight_through(vectors: Tensor, codes: Tensor) -> Tensor:
    """Return the codes' values with the vectors' gradient.

    Args:
        vectors: float (..., d), the encoder's output.
        codes: float (..., d), the nearest codes.
    """
    return vectors + (codes - vectors).detach()


def quantization(vectors: Tensor, codes: Tensor, codebook: float, commitment: float) -> Tensor:
    """Return equation 1 as a mean over all components: the squared norm of the equation over N·d.

    The first term moves the codes towards the encoder's vectors, the second the vectors towards their codes.

    Args:
        vectors: float (..., d), unit vectors of the encoder, E(e).
        codes: float (..., d), the codes chosen for them, z_q, looked up from the codebook.
        codebook: lambda_1, the weight of the codebook term; 1 in the paper.
        commitment: lambda_2, the weight of the commitment term; 1 in the paper.
    """
    return codebook * F.mse_loss(codes, vectors.detach()) + commitment * F.mse_loss(vectors, codes.detach())


def gaussian_kl(mean: Tensor, logvar: Tensor) -> Tensor:
    """Return equation 2, KL(N(mean, exp(logvar)) || N(0, 1)) in nats: summed over an item's latents, a mean over items.

    Because it is a sum, the weight lambda_3 = 1e-6 of the paper is small and still felt.

    Args:
        mean: float (B, ...), means of the latents.
        logvar: float (B, ...), their log variances.
    """
    mean, logvar = mean.flatten(1), logvar.flatten(1)
    return 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).sum(1).mean()


def hinge_discriminator(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Return the discriminator's loss: logits of real patches above 1 and of reconstructed ones below -1 cost nothing.

    Args:
        real_logits: float (N, ...), its logits for the data.
        fake_logits: float (N, ...), its logits for reconstructions; detach what they were computed from.
    """
    return 0.5 * (F.relu(1.0 - _full(real_logits)).mean() + F.relu(1.0 + _full(fake_logits)).mean())


def hinge_generator(fake_logits: Tensor) -> Tensor:
    """Return the tokenizer's adversarial loss: minus the mean logit (N, ...) of its reconstructions."""
    return -_full(fake_logits).mean()


def feature_matching(real_features: Sequence[Tensor], fake_features: Sequence[Tensor]) -> Tensor:
    """Return the mean absolute difference of a discriminator's features, averaged over its layers.

    Args:
        real_features: float (N, C, ...) per layer, for the data; no gradient reaches them.
        fake_features: float (N, C, ...) per layer, for the reconstructions, in the same order.
    """
    pairs = zip(real_features, fake_features, strict=True)
    return torch.stack([F.l1_loss(_full(fake), _full(real.detach())) for real, fake in pairs]).mean()


def _full(x: Tensor) -> Tensor:
    """Convert to float32 or better, as autocast leaves half precision, in which means are not taken."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
