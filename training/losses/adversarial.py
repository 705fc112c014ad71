"""The GAN loss (section 3.1.2) in its hinge form, and feature matching beside it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def hinge_discriminator(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """What the discriminator minimises: logits of real patches above 1 and of made ones below -1 cost nothing.

    Args:
        real_logits: float (N, ...), its logits for pictures of the data.
        fake_logits: float (N, ...), its logits for reconstructions; detach what they were computed from.
    """
    return 0.5 * (F.relu(1.0 - real_logits.float()).mean() + F.relu(1.0 + fake_logits.float()).mean())


def hinge_generator(fake_logits: Tensor) -> Tensor:
    """What the tokenizer minimises: minus the mean logit of its reconstructions.

    Args:
        fake_logits: float (N, ...), the discriminator's logits for reconstructions.
    """
    return -fake_logits.float().mean()


def feature_matching(real_features: Sequence[Tensor], fake_features: Sequence[Tensor]) -> Tensor:
    """Mean absolute difference of the discriminator's features, averaged over its layers; the real ones are fixed.

    Args:
        real_features: float (N, C, ...) per layer, for pictures of the data.
        fake_features: float (N, C, ...) per layer, for their reconstructions, in the same order.
    """
    distances = [
        F.l1_loss(fake.float(), real.detach().float()) for real, fake in zip(real_features, fake_features, strict=True)
    ]
    return torch.stack(distances).mean()
