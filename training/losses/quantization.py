"""Equation 1: codebook and commitment terms, and the straight-through estimator that goes with them."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def straight_through(vectors: Tensor, codes: Tensor) -> Tensor:
    """The codes' values with the vectors' gradient.

    Args:
        vectors: float (..., d), what the encoder gave.
        codes: float (..., d), the nearest codes.
    """
    return vectors + (codes - vectors).detach()


def quantization(vectors: Tensor, codes: Tensor, codebook: float, commitment: float) -> Tensor:
    """Equation 1, as a mean over all components: the squared norm of the equation over N·d.

    The first term moves the codes towards the encoder's vectors, the second the vectors towards their codes.

    Args:
        vectors: float (..., d), unit vectors of the encoder, E(e).
        codes: float (..., d), the codes chosen for them, z_q, looked up from the codebook.
        codebook: lambda_1, the weight of the codebook term; 1 in the paper.
        commitment: lambda_2, the weight of the commitment term; 1 in the paper.
    """
    return codebook * F.mse_loss(codes, vectors.detach()) + commitment * F.mse_loss(vectors, codes.detach())
