"""Codebook usage of a set of tokens."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.tokenizer.codebook import usage


class CodebookUse:
    """Counts tokens as they come.

    Args:
        codes: entries of the codebook.
    """

    def __init__(self, codes: int) -> None:
        self.counts = np.zeros(codes, np.int64)

    def update(self, tokens: Tensor) -> None:
        """Count int64 tokens of any shape, each below the number of codes."""
        self.counts += torch.bincount(tokens.flatten(), minlength=len(self.counts)).cpu().numpy()

    def add(self, other: CodebookUse) -> None:
        """Count what another one has counted."""
        self.counts += other.counts

    def figures(self) -> dict[str, float]:
        """Number of tokens; share of the codes that they use; 2 to their entropy in bits."""
        return {
            "tokens": int(self.counts.sum()),
            "usage": float((self.counts > 0).mean()),
            "perplexity": perplexity(self.counts),
        }


def perplexity(counts: NDArray[np.int64]) -> float:
    """2 to the entropy, in bits, of a histogram of tokens."""
    return float(usage(torch.from_numpy(counts))[1])
