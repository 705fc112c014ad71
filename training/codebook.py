"""Keeping the codebook alive: unit codes, and new places for codes that nothing chooses."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CodebookKeeper:
    """Watches which codes are chosen and revives the others.

    Args:
        codebook: (K, d), the learned parameter.
        average: (K, d), its moving average, which follows a revival at once.
        optimizer: holds the codebook's moments, which a revived code starts without.
        patience: steps without use after which a code is revived.
        generator: draws the new places, on the CPU.
    """

    def __init__(
        self,
        codebook: nn.Parameter,
        average: Tensor,
        optimizer: torch.optim.Optimizer,
        patience: int,
        generator: torch.Generator,
    ) -> None:
        self.codebook, self.average, self.optimizer = codebook, average, optimizer
        self.patience, self.generator = patience, generator
        self.last_used = torch.zeros(len(codebook), dtype=torch.int64, device=codebook.device)

    @torch.no_grad()
    def start(self, vectors: Tensor) -> None:
        """Set every code to a vector of the first batch (N, d)."""
        self.codebook.copy_(vectors[self._pick(len(vectors))])
        self.average.copy_(self.codebook)

    @torch.no_grad()
    def update(self, step: int, tokens: Tensor, vectors: Tensor) -> None:
        """After an optimiser step: bring codes back to unit length (section 3.1.2), note which were used, revive.

        Args:
            step: number of the step, from 1.
            tokens: (N,), the codes chosen in it.
            vectors: (N, d), the unit vectors that chose them.
        """
        self.codebook.copy_(F.normalize(self.codebook, dim=-1))
        self.last_used[tokens] = step
        if step % self.patience:
            return
        dead = (step - self.last_used >= self.patience).unsqueeze(1)
        places = vectors[self._pick(len(vectors))].to(self.codebook.dtype)
        for values in (self.codebook, self.average):
            values.copy_(torch.where(dead, places, values))
        for moment in ("exp_avg", "exp_avg_sq"):
            held = self.optimizer.state[self.codebook][moment]
            held.copy_(held.masked_fill(dead, 0.0))

    def _pick(self, vectors: int) -> Tensor:
        """One index per code, without repetition where there are enough vectors."""
        count = len(self.codebook)
        order = torch.randperm(vectors, generator=self.generator)
        repeated = order.repeat(-(-count // vectors))[:count]
        return repeated.to(self.codebook.device)
