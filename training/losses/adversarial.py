"""The GAN loss (section 3.1.2) in its hinge form, and feature matching beside it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def hinge_discriminator(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Return the discriminator's loss: logits of real patches above 1 and of made ones below -1 cost nothing.

    Args:
        real_logits: float (N, ...), its logits for pictures of the data.
        fake_logits: float (N, ...), its logits for reconstructions; detach what they were computed from.
    """
    return 0.5 * (F.relu(1.0 - _full(real_logits)).mean() + F.relu(1.0 + _full(fake_logits)).mean())


def hinge_generator(fake_logits: Tensor) -> Tensor:
    """Return the tokenizer's adversarial loss: minus the mean logit of its reconstructions.

    Args:
        fake_logits: float (N, ...), the discriminator's logits for reconstructions.
    """
    return -_full(fake_logits).mean()


def feature_matching(real_features: Sequence[Tensor], fake_features: Sequence[Tensor]) -> Tensor:
    """Mean absolute difference of the discriminator's features, averaged over its layers; the real ones are fixed.

    Args:
        real_features: float (N, C, ...) per layer, for pictures of the data.
        fake_features: float (N, C, ...) per layer, for their reconstructions, in the same order.
    """
    distances = [
        F.l1_loss(_full(fake), _full(real.detach())) for real, fake in zip(real_features, fake_features, strict=True)
    ]
    return torch.stack(distances).mean()


def _full(x: Tensor) -> Tensor:
    """Float32 or better: what autocast left in half precision is not averaged in it."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
