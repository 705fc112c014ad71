"""Frechet distance between Gaussians: the arithmetic of FID and FVD, in double precision."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.errors import TrainingError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Gaussian:
    """A normal distribution in d dimensions.

    Args:
        mean: float64 (d,).
        root: float64 (d, r) with covariance = root @ root.T; r may be smaller than d.
    """

    mean: Array
    root: Array


def gaussian(mean: Array, covariance: Array) -> Gaussian:
    """The normal distribution of a mean (d,) and a covariance (d, d), which is symmetric and not negative.

    The root comes from eigenvalues; those that rounding made negative count as 0.

    Raises:
        TrainingError: the shapes do not fit, or the covariance is not symmetric, not finite or clearly negative.
    """
    covariance = np.asarray(covariance, np.float64)
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise TrainingError(f"a mean of shape {mean.shape} does not go with a covariance of shape {covariance.shape}")
    if not np.isfinite(covariance).all() or not np.allclose(covariance, covariance.T, rtol=1e-8, atol=1e-12):
        raise TrainingError("a covariance must be finite and symmetric")
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    if values[0] < -1e-6 * max(values[-1], 1e-300):
        raise TrainingError(f"a covariance has no negative eigenvalues, this one has {values[0]:.3g}")
    return Gaussian(np.asarray(mean, np.float64), vectors * np.sqrt(values.clip(min=0)))


def gaussian_of(features: NDArray[np.floating]) -> Gaussian:
    """Mean and unbiased covariance of features.

    Where there are no more items than dimensions the centred features themselves are a root, and no eigenvalues are
    needed.

    Args:
        features: float (N, d), N at least 2.

    Raises:
        TrainingError: another shape, or a feature that is not finite.
    """
    if features.ndim != 2 or len(features) < 2:
        raise TrainingError(f"a covariance needs features (N, d) of at least 2 items, not shape {features.shape}")
    if not np.isfinite(features).all():
        raise TrainingError("features hold values that are not finite")
    values = features.astype(np.float64)
    mean = values.mean(axis=0)
    scaled = (values - mean).T / np.sqrt(len(values) - 1)
    if len(values) <= len(mean):
        return Gaussian(mean, scaled)
    return gaussian(mean, scaled @ scaled.T)


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """Squared Wasserstein-2 distance, |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)).

    With C = R R^T the eigenvalues of C1 C2 are the squared singular values of R1^T R2, so that the trace of the root is
    their sum: nothing is squared and rooted again, and a singular covariance needs no care.

    Raises:
        TrainingError: the dimensions differ.

    Source: Dowson and Landau, "The Frechet distance between multivariate normal distributions", 1982, equation 4.
    """
    if first.mean.shape != second.mean.shape:
        raise TrainingError(f"Gaussians of {len(first.mean)} and {len(second.mean)} dimensions have no distance")
    shift = float(np.square(first.mean - second.mean).sum())
    spread = float(np.square(first.root).sum() + np.square(second.root).sum())
    overlap = float(np.linalg.svd(first.root.T @ second.root, compute_uv=False).sum())
    return max(0.0, shift + spread - 2 * overlap)


def frechet_of(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Frechet distance between the Gaussians of two sets of features, each float (N, d)."""
    return frechet_distance(gaussian_of(first), gaussian_of(second))
