"""Kernel distance: the unbiased squared maximum mean discrepancy of KID."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.errors import TrainingError

SUBSETS = 10
SUBSET_SIZE = 1000


@dataclass(frozen=True)
class KernelDistance:
    """Mean over subsets, and the standard deviation between them (0 for a single one)."""

    mean: float
    deviation: float


def squared_discrepancy(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Unbiased estimate of MMD^2 under the kernel (x . y / d + 1)^3; below 0 by chance where the sets are alike.

    Args:
        first, second: float (N, d) and (M, d), N and M at least 2.

    Raises:
        TrainingError: other shapes.

    Source: Binkowski et al., "Demystifying MMD GANs", 2018, section 4; Gretton et al., "A Kernel Two-Sample Test",
    2012, lemma 6.
    """
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1] or min(len(first), len(second)) < 2:
        raise TrainingError(f"a kernel distance needs (N, d) and (M, d), N, M > 1, not {first.shape}, {second.shape}")
    x, y = first.astype(np.float64), second.astype(np.float64)
    within = [_mean_of_pairs(_kernel(z, z)) for z in (x, y)]
    return float(sum(within) - 2 * _kernel(x, y).mean())


def kernel_distance(
    first: NDArray[np.floating],
    second: NDArray[np.floating],
    seed: int,
    subsets: int = SUBSETS,
    size: int = SUBSET_SIZE,
) -> KernelDistance:
    """Mean of MMD^2 over random subsets; sets that are no larger than a subset are compared whole, once.

    Args:
        first, second: float (N, d) and (M, d).
        seed: of the subsets.
        subsets: how many.
        size: items of a subset, drawn from each set without repetition.
    """
    if max(len(first), len(second)) <= size:
        return KernelDistance(squared_discrepancy(first, second), 0.0)
    random = np.random.default_rng(seed)
    values = []
    for _ in range(subsets):
        parts = [z[random.choice(len(z), min(size, len(z)), replace=False)] for z in (first, second)]
        values.append(squared_discrepancy(*parts))
    return KernelDistance(float(np.mean(values)), float(np.std(values)))


def _kernel(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _mean_of_pairs(kernel: NDArray[np.float64]) -> float:
    """Mean over pairs of different items."""
    count = len(kernel)
    return float((kernel.sum() - np.trace(kernel)) / (count * (count - 1)))
