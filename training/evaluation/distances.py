"""Distances between two sets of features, in double precision: the Frechet distance of FID and FVD, and KID's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from training.errors import TrainingError

SUBSETS, SUBSET_SIZE = 10, 1000
SPLITS = 4
RADIUS_NEIGHBOURS = 3  # of the paper
MIN_SPLIT_ITEMS = 4  # two in each half, as a covariance needs
Features = NDArray[np.floating]
Indices = NDArray[np.int64]


def frechet_distance(first: Features, second: Features) -> float:
    """Return |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) of the means and unbiased covariances of two sets.

    With C = R^T R the eigenvalues of C1 C2 are the squared singular values of R1 R2^T, so that the trace of the root is
    their sum: no covariance is formed, and a singular one needs no care.

    Args:
        first, second: float (N, d) and (M, d), N and M at least 2.

    Raises:
        TrainingError: other shapes, or features that are not finite.

    Source: Dowson and Landau, "The Frechet distance between multivariate normal distributions", 1982, equation 4.
    """
    _check(first, second)
    means, roots = [], []
    for z in (first, second):
        means.append(z.mean(axis=0, dtype=np.float64))
        roots.append(np.asarray(np.linalg.qr((z - means[-1]) / np.sqrt(len(z) - 1), mode="r")))
    overlap = np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum()
    spread = sum(np.square(root).sum() for root in roots)
    return max(0.0, float(np.square(means[0] - means[1]).sum() + spread - 2 * overlap))


def kernel_distance(
    first: Features, second: Features, seed: int, subsets: int = SUBSETS, size: int = SUBSET_SIZE
) -> float:
    """Return the mean of MMD^2 over random subsets; sets that are no larger than a subset are compared whole, once.

    Args:
        first, second: float (N, d) and (M, d).
        seed: of the subsets.
        subsets: how many.
        size: items of a subset, drawn from each set without repetition.
    """
    if max(len(first), len(second)) <= size:
        return squared_mmd(first, second)
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(subsets):
        parts = [z[rng.choice(len(z), min(size, len(z)), replace=False)] for z in (first, second)]
        values.append(squared_mmd(*parts))
    return float(np.mean(values))


def kernel_floor(features: Features, seed: int) -> float | None:
    """Return the kernel distance of random halves of a set, as `half_split` does."""
    return half_split(
        len(features), lambda first, second: kernel_distance(features[first], features[second], seed), seed
    )


def squared_mmd(first: Features, second: Features) -> float:
    """Estimate MMD^2 without bias under the kernel (x . y / d + 1)^3; below 0 by chance where the sets are alike.

    Args:
        first, second: float (N, d) and (M, d), N and M at least 2.

    Raises:
        TrainingError: other shapes, or features that are not finite.

    Source: Binkowski et al., "Demystifying MMD GANs", 2018, section 4; Gretton et al., "A Kernel Two-Sample Test",
    2012, lemma 6.
    """
    _check(first, second)
    x, y = first.astype(np.float64), second.astype(np.float64)

    def kernel(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
        return (a @ b.T / a.shape[1] + 1) ** 3

    within = [
        (pairs.sum() - np.trace(pairs)) / (len(pairs) * (len(pairs) - 1)) for pairs in (kernel(x, x), kernel(y, y))
    ]
    return float(sum(within) - 2 * kernel(x, y).mean())


def precision_recall(real: Features, made: Features) -> tuple[float, float]:
    """Return the share of made items that are near real ones, and the share of real items that are near made ones.

    An item is near a set if it is no farther from some member than that member's own third neighbour in its set.

    Args:
        real, made: float (N, d) and (M, d), each of more than `RADIUS_NEIGHBOURS` items.

    Raises:
        TrainingError: other shapes, too few items, or features that are not finite.

    Source: Kynkaanniemi et al., "Improved precision and recall metric for assessing generative models", 2019.
    """
    _check(real, made)
    if min(len(real), len(made)) <= RADIUS_NEIGHBOURS:
        counts = f"{len(real)} and {len(made)}"
        raise TrainingError(f"Precision needs more than {RADIUS_NEIGHBOURS} items, not {counts}.")

    def covered(members: Features, items: Features) -> float:
        # The first one is the member itself.
        radius = np.sort(_squared_distances(members, members), axis=1)[:, RADIUS_NEIGHBOURS]
        return float((_squared_distances(items, members) <= radius).any(axis=1).mean())

    return covered(real, made), covered(made, real)


def nearest(items: Features, members: Features, count: int) -> Indices:
    """Return for each item the indices of its nearest members by cosine, nearest first: (N, count)."""
    return np.argsort(-_cosines(items, members), axis=1, kind="stable")[:, :count]


def count_copies(made: Features, real: Features, training: Features) -> int:
    """Return how many made items are nearer to a training item, by cosine, than any other real item is."""
    return int((_cosines(made, training).max(axis=1) > _cosines(real, training).max()).sum())


def half_split(count: int, distance: Callable[[Indices, Indices], float], seed: int) -> float | None:
    """Return the mean absolute distance between random halves of a set, which differ by chance alone.

    For a distance between distributions this is the floor under which a value says nothing: half as many items make
    it higher than for the whole set, so it errs on the safe side. For a distance between paired pictures it is the
    other end of the scale, pictures that have nothing to do with each other.

    Args:
        count: items of the set; a clip is one, for its frames resemble each other.
        distance: from the indices of two halves of equal size.
        seed: of the splits.

    Returns:
        None for a set of fewer than four items.
    """
    if count < MIN_SPLIT_ITEMS:
        return None
    rng, half = np.random.default_rng(seed), count // 2
    orders = [rng.permutation(count) for _ in range(SPLITS)]
    return float(np.mean([abs(distance(order[:half], order[half : 2 * half])) for order in orders]))


def _cosines(items: Features, members: Features) -> Features:
    unit = [z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12) for z in (items, members)]
    return np.asarray(unit[0] @ unit[1].T)


def _squared_distances(first: Features, second: Features) -> NDArray[np.float64]:
    a, b = first.astype(np.float64), second.astype(np.float64)
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    return np.maximum(squares, 0)


def _check(first: Features, second: Features) -> None:
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1] or min(len(first), len(second)) < 2:
        raise TrainingError(f"A distance needs (N, d) and (M, d), N, M > 1, not {first.shape} and {second.shape}.")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise TrainingError("Features hold values that are not finite.")
