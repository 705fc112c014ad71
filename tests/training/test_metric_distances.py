"""Frechet and kernel distances, half splits, codebook and latent statistics: laws, and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.errors import TrainingError
from training.evaluation.codebook import CodebookUse, perplexity
from training.evaluation.features import projection
from training.evaluation.frechet import frechet_distance, frechet_of, gaussian, gaussian_of
from training.evaluation.kernel import kernel_distance, squared_discrepancy
from training.evaluation.latents import LatentStatistics
from training.evaluation.split_half import half_split

seeds = st.integers(0, 2**32 - 1)


def covariance(random: np.random.Generator, size: int, rank: int | None = None) -> np.ndarray:
    root = random.standard_normal((size, rank or size))
    return root @ root.T


@given(seed=seeds, size=st.integers(1, 40))
def test_diagonal_gaussians_have_the_distance_of_their_deviations(seed: int, size: int) -> None:
    random = np.random.default_rng(seed)
    means = random.standard_normal((2, size))
    deviations = random.uniform(0, 3, (2, size)) * random.integers(0, 2, (2, size))  # some of them 0
    first, second = (gaussian(m, np.diag(d**2)) for m, d in zip(means, deviations, strict=True))
    expected = np.square(means[0] - means[1]).sum() + np.square(deviations[0] - deviations[1]).sum()
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(seed=seeds, size=st.integers(1, 24), rank=st.integers(1, 24))
def test_full_covariances_agree_with_the_eigenvalues_of_their_product(seed: int, size: int, rank: int) -> None:
    """tr (C1 C2)^(1/2) is the sum of the roots of the eigenvalues of C1 C2, which is not symmetric."""
    random = np.random.default_rng(seed)
    one, two = covariance(random, size), covariance(random, size, min(rank, size))
    mean = random.standard_normal(size)
    roots = np.sqrt(np.linalg.eigvals(one @ two).real.clip(min=0)).sum()
    expected = np.square(mean).sum() + np.trace(one) + np.trace(two) - 2 * roots
    # the eigenvalues of a singular product, which are 0, come out as 1e-15 or so, and their roots as 3e-8
    found = frechet_distance(gaussian(mean, one), gaussian(np.zeros(size), two))
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_covariances_with_common_axes_have_a_closed_form() -> None:
    """Rotated by the same axes, singular ones too, they are as far apart as their deviations along the axes."""
    random = np.random.default_rng(0)
    axes = np.linalg.qr(random.standard_normal((300, 300)))[0]
    deviations = random.uniform(0, 2, (2, 300))
    deviations[:, 200:] = 0
    first, second = (gaussian(np.zeros(300), axes * d**2 @ axes.T) for d in deviations)
    expected = np.square(deviations[0] - deviations[1]).sum()
    assert frechet_distance(first, second) == pytest.approx(expected, abs=1e-5)  # roots of eigenvalues of about 1e-15


@pytest.mark.parametrize(("count", "size"), [(30, 8), (8, 30), (20, 20)])
def test_features_give_the_gaussian_of_their_moments(count: int, size: int) -> None:
    """With fewer items than dimensions no covariance is formed: both ways agree."""
    random = np.random.default_rng(count)
    sets = [random.standard_normal((count, size)) + shift for shift in (0, 0.5)]
    moments = [gaussian(z.mean(axis=0), np.cov(z, rowvar=False)) for z in sets]
    assert frechet_of(*sets) == pytest.approx(frechet_distance(*moments), rel=1e-6)
    found = gaussian_of(sets[0])
    np.testing.assert_allclose(found.root @ found.root.T, np.cov(sets[0], rowvar=False), atol=1e-9)


@given(seed=seeds, count=st.integers(2, 30), size=st.integers(1, 30))
def test_a_distance_is_symmetric_and_0_of_a_set_from_itself(seed: int, count: int, size: int) -> None:
    random = np.random.default_rng(seed)
    first, second = random.standard_normal((2, count, size))
    assert frechet_of(first, first) == pytest.approx(0, abs=1e-9 * size)
    assert frechet_of(first, second) == pytest.approx(frechet_of(second, first), rel=1e-9, abs=1e-9)
    shift = random.standard_normal(size)
    expected = np.square(shift).sum()
    assert frechet_of(first, first + shift) == pytest.approx(expected, rel=1e-7, abs=1e-7)


def test_a_projection_keeps_lengths_within_its_columns_and_never_changes() -> None:
    columns = projection(50, 7)
    np.testing.assert_allclose(columns.T @ columns, np.eye(7), atol=1e-6)
    np.testing.assert_array_equal(columns, projection(50, 7))
    np.testing.assert_allclose(columns[0, :3], [0.242802, 0.0577, 0.135108], atol=1e-5)


@pytest.mark.parametrize(
    ("mean", "matrix", "message"),
    [
        (np.zeros(3), np.eye(2), "does not go with"),
        (np.zeros(2), np.array([[1.0, 1.0], [0.0, 1.0]]), "symmetric"),
        (np.zeros(2), np.array([[1.0, 0.0], [0.0, np.nan]]), "finite"),
        (np.zeros(2), np.diag([1.0, -0.5]), "negative"),
    ],
)
def test_what_is_no_gaussian_is_refused(mean: np.ndarray, matrix: np.ndarray, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        gaussian(mean, matrix)


@pytest.mark.parametrize("features", [np.zeros((1, 4)), np.zeros(4), np.full((5, 4), np.inf)])
def test_features_that_have_no_covariance_are_refused(features: np.ndarray) -> None:
    with pytest.raises(TrainingError):
        gaussian_of(features)


def test_gaussians_of_other_dimensions_are_refused() -> None:
    with pytest.raises(TrainingError, match="3 and 4"):
        frechet_distance(gaussian(np.zeros(3), np.eye(3)), gaussian(np.zeros(4), np.eye(4)))


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
    assert squared_discrepancy(x, y) == pytest.approx(sum(within) - 2 * across, rel=1e-9, abs=1e-9)


def test_the_kernel_distance_of_equal_distributions_is_0_on_average_however_few_the_items() -> None:
    values = []
    for seed in range(400):
        random = np.random.default_rng(seed)
        values.append(squared_discrepancy(random.standard_normal((12, 6)), random.standard_normal((12, 6))))
    error = np.std(values) / math.sqrt(len(values))
    assert abs(np.mean(values)) < 3 * error
    assert min(values) < 0 < max(values)
    apart = np.random.default_rng(0)
    assert squared_discrepancy(apart.standard_normal((12, 6)), apart.standard_normal((12, 6)) + 1) > 30 * error


def test_subsets_estimate_the_distance_of_the_whole_sets() -> None:
    random = np.random.default_rng(1)
    x, y = random.standard_normal((300, 8)), random.standard_normal((300, 8)) + 0.5
    whole = kernel_distance(x, y, seed=0)
    assert (whole.mean, whole.deviation) == (squared_discrepancy(x, y), 0)
    parts = kernel_distance(x, y, seed=0, subsets=50, size=60)
    assert parts.deviation > 0
    assert parts.mean == pytest.approx(whole.mean, abs=4 * parts.deviation / math.sqrt(50))
    assert parts == kernel_distance(x, y, seed=0, subsets=50, size=60)
    assert parts != kernel_distance(x, y, seed=1, subsets=50, size=60)


@pytest.mark.parametrize("shapes", [((1, 3), (4, 3)), ((4, 3), (4, 2)), ((4,), (4,))])
def test_sets_that_have_no_kernel_distance_are_refused(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(TrainingError):
        squared_discrepancy(*(np.zeros(shape) for shape in shapes))


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
    floor = half_split(len(x), lambda a, b: frechet_of(x[a], x[b]), 0)
    assert floor is not None
    assert 0.01 < floor < 1
    assert frechet_of(x, x + 1) > 5 * floor


@given(histogram=st.lists(st.integers(0, 50), min_size=1, max_size=20).filter(any))
def test_perplexity_lies_between_one_and_the_codes_used(histogram: list[int]) -> None:
    counts = np.array(histogram)
    assert 1 - 1e-9 <= perplexity(counts) <= (counts > 0).sum() + 1e-9


def test_tokens_are_counted_over_all_batches() -> None:
    use, more = CodebookUse(8), CodebookUse(8)
    use.update(torch.tensor([[0, 1], [1, 0]]))
    more.update(torch.tensor([2, 3, 2, 3]))
    use.add(more)
    assert use.figures() == {"tokens": 8, "usage": 0.5, "perplexity": pytest.approx(4)}


def test_latent_statistics_are_those_of_all_batches_together() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, logvar = torch.randn(2, 6, 2, 3, 3, 4, generator=generator)
    whole, first, second = (LatentStatistics(4) for _ in range(3))
    whole.update(mean, logvar)
    first.update(mean[:2], logvar[:2])
    second.update(mean[2:], logvar[2:])
    first.add(second)
    flat = mean.flatten(0, -2).double()
    figures = first.figures()
    assert figures["mean"] == pytest.approx(flat.mean(dim=0).tolist())
    assert figures["deviation"] == pytest.approx(flat.std(dim=0, correction=0).tolist())
    posterior = torch.distributions.Normal(mean.double(), (0.5 * logvar.double()).exp())
    unit = torch.distributions.Normal(torch.tensor(0.0).double(), torch.tensor(1.0).double())
    expected = torch.distributions.kl_divergence(posterior, unit).sum(dim=-1).mean()
    assert figures["kl"] == pytest.approx(float(expected))
    for name, value in whole.figures().items():
        assert figures[name] == pytest.approx(value)


def test_latents_of_the_unit_gaussian_diverge_by_nothing() -> None:
    latents = LatentStatistics(3)
    latents.update(torch.zeros(5, 3), torch.zeros(5, 3))
    assert latents.figures()["kl"] == 0
