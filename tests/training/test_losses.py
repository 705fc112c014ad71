"""The losses against closed forms, and against differences of their own values."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

from training.tokenizer import losses

finite = st.floats(-3.0, 3.0)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def gradients(loss: Tensor, *of: Tensor) -> list[Tensor | None]:
    return list(torch.autograd.grad(loss, of, allow_unused=True))


@given(mean=finite, logvar=finite)
@settings(max_examples=50, deadline=None)
def test_gaussian_kl_of_one_latent(mean: float, logvar: float) -> None:
    m, v = torch.tensor([[mean]]), torch.tensor([[logvar]])
    expected = kl_divergence(Normal(m, (0.5 * v).exp()), Normal(0.0, 1.0)).sum()
    torch.testing.assert_close(losses.gaussian_kl(m, v), expected, atol=1e-5, rtol=1e-5)


def test_gaussian_kl_sums_over_an_items_latents_and_averages_over_items() -> None:
    mean, logvar = random(3, 5, 2, 2, 4, seed=1), random(3, 5, 2, 2, 4, seed=2)
    posterior = Independent(Normal(mean, (0.5 * logvar).exp()), 4)
    prior = Independent(Normal(torch.zeros_like(mean), torch.ones_like(mean)), 4)
    expected = kl_divergence(posterior, prior)
    assert expected.shape == (3,)
    torch.testing.assert_close(losses.gaussian_kl(mean, logvar), expected.mean())


def test_the_prior_itself_costs_nothing_and_pulls_nowhere() -> None:
    mean, logvar = torch.zeros(2, 6, requires_grad=True), torch.zeros(2, 6, requires_grad=True)
    loss = losses.gaussian_kl(mean, logvar)
    assert loss == 0
    for gradient in gradients(loss, mean, logvar):
        assert gradient is not None
        assert not gradient.any()


def test_the_codebook_term_moves_codes_alone() -> None:
    vectors, codes = random(7, 4, seed=1), random(7, 4, seed=2)
    to_vectors, to_codes = gradients(losses.quantization(vectors, codes, codebook=3.0, commitment=0.0), vectors, codes)
    assert to_vectors is not None
    assert not to_vectors.any()
    torch.testing.assert_close(to_codes, 3.0 * 2 * (codes - vectors).detach() / vectors.numel())


def test_the_commitment_term_moves_vectors_alone() -> None:
    vectors, codes = random(7, 4, seed=1), random(7, 4, seed=2)
    to_vectors, to_codes = gradients(losses.quantization(vectors, codes, codebook=0.0, commitment=0.5), vectors, codes)
    torch.testing.assert_close(to_vectors, 0.5 * 2 * (vectors - codes).detach() / vectors.numel())
    assert to_codes is not None
    assert not to_codes.any()


def test_equation_1_has_the_value_of_both_terms() -> None:
    vectors, codes = random(2, 3, 4, seed=1), random(2, 3, 4, seed=2)
    squared = ((vectors - codes) ** 2).mean()
    torch.testing.assert_close(losses.quantization(vectors, codes, 1.0, 0.25), 1.25 * squared)


def test_straight_through_has_the_codes_values_and_the_vectors_gradient() -> None:
    vectors, codes, weight = random(5, 4, seed=1), random(5, 4, seed=2), random(5, 4, seed=3).detach()
    out = losses.straight_through(vectors, codes)
    torch.testing.assert_close(out, codes)
    to_vectors, to_codes = gradients((out * weight).sum(), vectors, codes)
    assert to_vectors is not None
    assert torch.equal(to_vectors, weight)
    assert to_codes is None


@pytest.mark.parametrize(("l2", "l1"), [(1.0, 0.0), (0.0, 1.0), (20.0, 2.0)])
def test_reconstruction_weighs_squared_and_absolute_error(l2: float, l1: float) -> None:
    out, pixels = random(2, 5, 8, 8, 3, seed=1), random(2, 5, 8, 8, 3, seed=2).detach()
    error = out - pixels
    expected = l2 * (error**2).mean() + l1 * error.abs().mean()
    torch.testing.assert_close(losses.reconstruction(out, pixels, l2, l1), expected)


def test_reconstruction_of_half_precision_is_measured_in_full() -> None:
    pixels = torch.rand(2, 1, 8, 8, 3) - 0.5
    out = (pixels + 1e-3).bfloat16()
    loss = losses.reconstruction(out, pixels, 1.0, 0.0)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, F.mse_loss(out.float(), pixels))


def test_hinge_values() -> None:
    real, fake = torch.tensor([2.0, 1.0, 0.0, -1.0]), torch.tensor([-3.0, -1.0, 0.0, 2.0])
    assert losses.hinge_discriminator(real, fake) == 0.5 * ((0 + 0 + 1 + 2) / 4 + (0 + 0 + 1 + 3) / 4)
    assert losses.hinge_generator(fake) == 0.5


@given(margin=st.floats(1.0, 10.0))
@settings(max_examples=20, deadline=None)
def test_a_discriminator_that_is_right_by_the_margin_learns_nothing_more(margin: float) -> None:
    real, fake = torch.full((4,), margin, requires_grad=True), torch.full((4,), -margin, requires_grad=True)
    loss = losses.hinge_discriminator(real, fake)
    assert loss == 0
    assert all(gradient is not None and not gradient.any() for gradient in gradients(loss, real, fake))


def test_feature_matching_averages_layers_whatever_their_size_and_moves_the_made_ones_alone() -> None:
    real = (random(2, 4, 8, 8, seed=1), random(2, 16, 2, 2, seed=2))
    fake = (random(2, 4, 8, 8, seed=3), random(2, 16, 2, 2, seed=4))
    loss = losses.feature_matching(real, fake)
    torch.testing.assert_close(loss, sum((a - b).abs().mean() for a, b in zip(real, fake, strict=True)) / 2)
    assert gradients(loss, *real) == [None, None]
    assert all(gradient is not None and gradient.any() for gradient in gradients(loss, *fake))
    with pytest.raises(ValueError, match="zip"):
        losses.feature_matching(real, fake[:1])


EVERY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "reconstruction": lambda a, b: losses.reconstruction(a, b, 2.0, 0.5),
    "quantization": lambda a, b: losses.quantization(a, b, 1.0, 0.25),
    "gaussian_kl": losses.gaussian_kl,
    "hinge_discriminator": losses.hinge_discriminator,
    "hinge_generator": lambda a, b: losses.hinge_generator(a + b),
    "feature_matching": lambda a, b: losses.feature_matching((a, a), (b, b)),
}


@pytest.mark.parametrize("name", [name for name in EVERY if name not in ("quantization", "feature_matching")])
def test_gradients_equal_differences(name: str) -> None:
    """The two left out stop gradients on purpose; their gradients are given in closed form above."""
    assert torch.autograd.gradcheck(EVERY[name], (random(2, 3, 4, seed=5), random(2, 3, 4, seed=6)))


@pytest.mark.parametrize("name", EVERY)
def test_losses_never_look_at_values(name: str) -> None:
    """On the meta device there are none: reading one, or a shape that depends on one, raises."""
    a, b = (torch.empty(2, 3, 4, device="meta", requires_grad=True) for _ in range(2))
    loss = EVERY[name](a, b)
    loss.backward()
    assert loss.shape == ()
    assert loss.dtype == torch.float32


@pytest.mark.parametrize("name", ["hinge_discriminator", "hinge_generator", "feature_matching"])
def test_half_precision_judgements_are_averaged_in_full(name: str) -> None:
    a, b = (random(64, 31, seed=seed).detach().bfloat16() for seed in (7, 8))
    loss = EVERY[name](a, b) if name != "hinge_generator" else losses.hinge_generator(a)
    exact = EVERY[name](a.double(), b.double()) if name != "hinge_generator" else losses.hinge_generator(a.double())
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), exact, atol=1e-6, rtol=1e-6)
