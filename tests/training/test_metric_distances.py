"""Frechet and kernel distances, half splits, codebook and latent statistics: laws, and closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.errors import TrainingError
from training.evaluation.code_statistics import CodebookUsage, LatentStatistics
from training.evaluation.distances import frechet_distance, half_split, kernel_distance, squared_mmd
from training.evaluation.features import projection

seeds = st.integers(0, 2**32 - 1)


def features_of(mean: np.ndarray, root: np.ndarray) -> np.ndarray:
    """Features (2 r, d) whose mean is `mean` and whose unbiased covariance is root.T @ root, for a root (r, d)."""
    return mean + np.concatenate([root, -root]) * np.sqrt((2 * len(root) - 1) / 2)


@given(seed=seeds, size=st.integers(1, 40))
def test_diagonal_gaussians_have_the_distance_of_their_deviations(seed: int, size: int) -> None:
    random = np.random.default_rng(seed)
    means = random.standard_normal((2, size))
    deviations = random.uniform(0, 3, (2, size)) * random.integers(0, 2, (2, size))  # some of them 0
    first, second = (features_of(m, np.diag(d)) for m, d in zip(means, deviations, strict=True))
    expected = np.square(means[0] - means[1]).sum() + np.square(deviations[0] - deviations[1]).sum()
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(seed=seeds, size=st.integers(1, 24), rank=st.integers(1, 24))
def test_full_covariances_agree_with_the_eigenvalues_of_their_product(seed: int, size: int, rank: int) -> None:
    """tr (C1 C2)^(1/2) is the sum of the roots of the eigenvalues of C1 C2, which is not symmetric."""
    random = np.random.default_rng(seed)
    roots = random.standard_normal((size, size)), random.standard_normal((rank, size))
    one, two = (root.T @ root for root in roots)
    mean = random.standard_normal(size)
    overlap = np.sqrt(np.linalg.eigvals(one @ two).real.clip(min=0)).sum()
    expected = np.square(mean).sum() + np.trace(one) + np.trace(two) - 2 * overlap
    # the eigenvalues of a singular product, which are 0, come out as 1e-15 or so, and their roots as 3e-8
    found = frechet_distance(features_of(mean, roots[0]), features_of(np.zeros(size), roots[1]))
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_covariances_with_common_axes_have_a_closed_form() -> None:
    """Rotated by the same axes, singular ones too, they are as far apart as their deviations along the axes."""
    random = np.random.default_rng(0)
    axes = np.linalg.qr(random.standard_normal((300, 300)))[0]
    deviations = random.uniform(0, 2, (2, 300))
    deviations[:, 200:] = 0
    first, second = (features_of(np.zeros(300), d[:, None] * axes.T) for d in deviations)
    expected = np.square(deviations[0] - deviations[1]).sum()
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-9)


@given(seed=seeds, count=st.integers(2, 30), size=st.integers(1, 30))
def test_a_distance_is_symmetric_and_0_of_a_set_from_itself(seed: int, count: int, size: int) -> None:
    random = np.random.default_rng(seed)
    first, second = random.standard_normal((2, count, size))
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-9 * size)
    assert frechet_distance(first, second) == pytest.approx(frechet_distance(second, first), rel=1e-9, abs=1e-9)
    shift = random.standard_normal(size)
    expected = np.square(shift).sum()
    assert frechet_distance(first, first + shift) == pytest.approx(expected, rel=1e-7, abs=1e-7)


def test_a_projection_keeps_lengths_within_its_columns_and_never_changes() -> None:
    columns = projection(50, 7)
    np.testing.assert_allclose(columns.T @ columns, np.eye(7), atol=1e-6)
    np.testing.assert_array_equal(columns, projection(50, 7))
    np.testing.assert_allclose(columns[0, :3], [0.242802, 0.0577, 0.135108], atol=1e-5)


@pytest.mark.parametrize("distance", [frechet_distance, squared_mmd])
@pytest.mark.parametrize("shapes", [((1, 3), (4, 3)), ((4, 3), (4, 2)), ((4,), (4,))])
def test_sets_that_have_no_distance_are_refused(distance: Callable[..., float], shapes: tuple) -> None:
    with pytest.raises(TrainingError, match="needs"):
        distance(*(np.zeros(shape) for shape in shapes))
    with pytest.raises(TrainingError, match="not finite"):
        distance(np.full((5, 4), np.inf), np.zeros((5, 4)))


@given(seed=seeds, counts=st.tuples(st.integers(2, 7), st.integers(2, 7)), size=st.integers(1, 5))
def test_the_kernel_distance_is_its_definition(seed: int, counts: tuple[int, int], size: int) -> None:
    random = np.random.default_rng(seed)
    x, y = (random.standard_normal((count, size)) for count in counts)

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return (float(sum(p * q for p, q in zip(a, b, strict=True))) / size + 1) ** 3

    within = [
        sum(kernel(z[i], z[j]) for i in range(len(z)) for j in range(len(z)) if i != j) / (len(z) * (len(z) - 1))
        for z in (x, y)
    ]
    across = sum(kernel(a, b) for a in x for b in y) / (len(x) * len(y))
    assert squared_mmd(x, y) == pytest.approx(sum(within) - 2 * across, rel=1e-9, abs=1e-9)


def test_the_kernel_distance_of_equal_distributions_is_0_on_average_however_few_the_items() -> None:
    values = []
    for seed in range(400):
        random = np.random.default_rng(seed)
        values.append(squared_mmd(random.standard_normal((12, 6)), random.standard_normal((12, 6))))
    error = np.std(values) / math.sqrt(len(values))
    assert abs(np.mean(values)) < 3 * error
    assert min(values) < 0 < max(values)
    apart = np.random.default_rng(0)
    assert squared_mmd(apart.standard_normal((12, 6)), apart.standard_normal((12, 6)) + 1) > 30 * error


def test_subsets_estimate_the_distance_of_the_whole_sets() -> None:
    random = np.random.default_rng(1)
    x, y = random.standard_normal((300, 8)), random.standard_normal((300, 8)) + 0.5
    whole = kernel_distance(x, y, seed=0)
    assert whole == squared_mmd(x, y)
    parts = kernel_distance(x, y, seed=0, subsets=50, size=60)
    assert parts != whole
    assert parts == pytest.approx(whole, rel=0.1)
    assert parts == kernel_distance(x, y, seed=0, subsets=50, size=60)
    assert parts != kernel_distance(x, y, seed=1, subsets=50, size=60)


@given(count=st.integers(4, 21), seed=seeds)
def test_halves_share_no_item_and_are_equally_large(count: int, seed: int) -> None:
    seen = []

    def distance(first: np.ndarray, second: np.ndarray) -> float:
        assert len(first) == len(second) == count // 2
        assert not set(first) & set(second)
        assert set(first) | set(second) <= set(range(count))
        seen.append(tuple(first))
        return -2.0

    assert half_split(count, distance, seed) == 2.0
    again = seen.copy()
    seen.clear()
    half_split(count, distance, seed)
    assert seen == again


def test_too_few_items_have_no_halves() -> None:
    assert half_split(3, lambda *_: 1.0, 0) is None


def test_the_floor_of_a_frechet_distance_is_what_chance_gives() -> None:
    """Above 0 for halves of one distribution, and below the distance to another one."""
    random = np.random.default_rng(2)
    x = random.standard_normal((200, 10))
    floor = half_split(len(x), lambda a, b: frechet_distance(x[a], x[b]), 0)
    assert floor is not None
    assert 0.01 < floor < 1
    assert frechet_distance(x, x + 1) > 5 * floor


def test_tokens_are_counted_over_all_batches() -> None:
    use, more = CodebookUsage(8), CodebookUsage(8)
    use.update(torch.tensor([[0, 1], [1, 0]]))
    more.update(torch.tensor([2, 3, 2, 3]))
    use.merge(more)
    assert use.compute() == {"tokens": 8, "usage": 0.5, "perplexity": pytest.approx(4)}


def test_latent_statistics_are_those_of_all_batches_together() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, logvar = torch.randn(2, 6, 2, 3, 3, 4, generator=generator)
    whole, first, second = (LatentStatistics(4) for _ in range(3))
    whole.update(mean, logvar)
    first.update(mean[:2], logvar[:2])
    second.update(mean[2:], logvar[2:])
    first.merge(second)
    flat = mean.flatten(0, -2).double()
    computed = first.compute()
    assert computed["mean"] == pytest.approx(flat.mean(dim=0).tolist())
    assert computed["deviation"] == pytest.approx(flat.std(dim=0, correction=0).tolist())
    posterior = torch.distributions.Normal(mean.double(), (0.5 * logvar.double()).exp())
    unit = torch.distributions.Normal(torch.tensor(0.0).double(), torch.tensor(1.0).double())
    expected = torch.distributions.kl_divergence(posterior, unit).sum(dim=-1).mean()
    assert computed["kl"] == pytest.approx(float(expected))
    for name, value in whole.compute().items():
        assert computed[name] == pytest.approx(value)


def test_latents_of_the_unit_gaussian_diverge_by_nothing() -> None:
    latents = LatentStatistics(3)
    latents.update(torch.zeros(5, 3), torch.zeros(5, 3))
    assert latents.compute()["kl"] == 0
