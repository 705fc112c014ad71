"""One forward pass of VQ training (section 3.1.2, equation 1)."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from model import OmniTokenizer, VQHead
from training.losses.quantization import straight_through
from training.recipes import Recipe


class Step(NamedTuple):
    """What one forward pass gives.

    Args:
        loss: the weighted sum, differentiable.
        squared_error: mean squared error of the pixels, detached.
        commitment: mean squared distance of vectors to their codes, detached.
        vectors: (N, d), the encoder's unit vectors, detached.
        tokens: (N,), the chosen codes.
    """

    loss: Tensor
    squared_error: Tensor
    commitment: Tensor
    vectors: Tensor
    tokens: Tensor


def vq_step(tokenizer: OmniTokenizer, pixels: Tensor, recipe: Recipe, quantise: bool) -> Step:
    """Encode, quantise, decode and compare.

    Args:
        tokenizer: a VQ model in training.
        pixels: float (B, T, H, W, 3) in [-0.5, 0.5], T = 1 + k * temporal_patch, H and W multiples of the patch.
        recipe: the weights of the terms.
        quantise: whether the decoder sees codes; if not, it sees the vectors, and equation 1 is left out.
    """
    head = tokenizer.head
    assert isinstance(head, VQHead)
    vectors = head.project(tokenizer.encoder(pixels))
    tokens = head.assign(vectors.detach())
    codes = head.lookup(tokens)
    codebook_loss = F.mse_loss(codes, vectors.detach())
    commitment = F.mse_loss(vectors, codes.detach())
    out = tokenizer.decoder(head.expand(straight_through(vectors, codes) if quantise else vectors)).float()
    squared = F.mse_loss(out, pixels)
    loss = recipe.l2 * squared + recipe.l1 * F.l1_loss(out, pixels)
    if quantise:
        loss = loss + recipe.codebook * codebook_loss + recipe.commitment * commitment
    return Step(loss, squared.detach(), commitment.detach(), vectors.detach().flatten(0, -2), tokens.flatten())
