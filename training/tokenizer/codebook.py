"""Updates of a codebook: unit codes, learned by gradient or by moving averages, and restarts of dead codes.

All of it is device code without a branch on a value, so that it can be part of a captured training step.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.recipes import Stage
from training.rng import PLACES, random_ints


class CodebookUpdater(nn.Module):
    """The updates of a codebook between optimiser steps; the buffers are the whole state.

    Args:
        codebook: (K, d), the codes that are trained.
        ema: (K, d), their moving average, which follows initialisation and restarts at once.
        stage: how codes are learned and when they are restarted.
        seed: of the vectors that codes restart from.
    """

    last_used: Tensor
    uses: Tensor
    counts: Tensor
    sums: Tensor

    def __init__(self, codebook: nn.Parameter, ema: nn.Parameter, stage: Stage, seed: int) -> None:
        super().__init__()
        # in a list, as the parameters belong to other modules
        self._codes = [codebook, ema]
        self.dead_code_steps, self.seed = stage.dead_code_steps, seed
        self.decay = stage.codebook_decay if stage.codebook_update == "ema" else None
        size = len(codebook)
        self.register_buffer("last_used", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("uses", torch.zeros(size, dtype=torch.int64))
        if self.decay is not None:
            self.register_buffer("counts", torch.ones(size))
            self.register_buffer("sums", codebook.detach().clone())
        self.to(codebook.device)

    @torch.no_grad()
    def initialize(self, vectors: Tensor, step: Tensor) -> None:
        """Set every code to a vector of a batch.

        Args:
            vectors: (N, d), unit vectors of all ranks.
            step: int64 (), steps done before.
        """
        self._restart(torch.ones_like(self.last_used, dtype=torch.bool), self._spread(vectors, step), None)
        self.last_used.copy_(step.expand_as(self.last_used))

    @torch.no_grad()
    def update(self, step: Tensor, tokens: Tensor, vectors: Tensor, optimizer: torch.optim.Optimizer) -> None:
        """Apply moving averages where they are in use, restore unit length, count uses, and restart dead codes.

        Args:
            step: int64 (), number of the step, from 1.
            tokens: (N,), the codes chosen in it, over all ranks.
            vectors: (N, d), the unit vectors that chose them.
            optimizer: holds the codebook's moments, which a restarted code begins without.
        """
        uses = torch.zeros_like(self.uses).index_add_(0, tokens, torch.ones_like(tokens))
        self.uses += uses
        self.last_used.copy_(torch.where(uses > 0, step, self.last_used))
        codebook, ema = self._codes
        if self.decay is not None:
            self.counts.lerp_(uses.to(self.counts.dtype), 1 - self.decay)
            self.sums.lerp_(
                torch.zeros_like(self.sums).index_add_(0, tokens, vectors.to(self.sums.dtype)), 1 - self.decay
            )
            # a code whose sums have faded to nothing keeps its place until it is restarted
            codebook.copy_(torch.where(self.counts.unsqueeze(1) > 1e-6, self.sums, codebook))
        for codes in (codebook, ema):
            codes.copy_(F.normalize(codes, dim=-1))
        dead = (step - self.last_used >= self.dead_code_steps) & (step % self.dead_code_steps == 0)
        self._restart(dead, self._spread(vectors, step), optimizer)

    def read_uses(self) -> Tensor:
        """Return the count of each code since the last call: int64 (K,)."""
        uses = self.uses.clone()
        self.uses.zero_()
        return uses

    def _restart(self, which: Tensor, vectors: Tensor, optimizer: torch.optim.Optimizer | None) -> None:
        """Set codes to vectors, and all statistics of them to a fresh start."""
        mask = which.unsqueeze(1)
        for codes in self._codes:
            codes.copy_(torch.where(mask, vectors.to(codes.dtype), codes))
        if self.decay is not None:
            # sums of the old place would pull the code back in the next step
            self.sums.copy_(torch.where(mask, vectors.to(self.sums.dtype), self.sums))
            self.counts.masked_fill_(which, 1.0)
        moments = optimizer.state.get(self._codes[0], {}) if optimizer is not None else {}
        for name in ("exp_avg", "exp_avg_sq"):
            if name in moments:
                moments[name].masked_fill_(mask, 0.0)

    def _spread(self, vectors: Tensor, step: Tensor) -> Tensor:
        """Pick a vector for each code, none twice where there are enough, by strides from a random place."""
        count, size = len(self.last_used), len(vectors)
        stride = max(1, round(size * (math.sqrt(5) - 1) / 2))  # the golden section spreads the places evenly
        while math.gcd(stride, size) != 1:
            stride += 1
        begin = random_ints(self.seed, PLACES, step, 0, 1)
        index = (begin + stride * torch.arange(count, device=vectors.device)) % size
        return vectors[index]


def usage(uses: Tensor) -> tuple[Tensor, Tensor]:
    """Return the share of codes in use and the perplexity (2 to the entropy in bits) of a histogram of tokens (K,)."""
    shares = uses.double() / uses.sum().clamp(min=1)
    entropy = -(shares * shares.clamp(min=1e-300).log()).sum()
    return (uses > 0).double().mean(), entropy.exp()
