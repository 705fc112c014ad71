"""PSNR and SSIM: laws first, then a window computed by hand."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.metrics.psnr import MAX_PSNR_DB, decibels, psnr
from model.metrics.ssim import ssim

RNG = np.random.default_rng(0)


def picture(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, (*shape, 3), dtype=np.uint8)


def test_equal_pictures_are_perfect() -> None:
    clip = picture(3, 16, 20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # infinitely many decibels are no reason for one
        assert psnr(clip, clip).tolist() == [MAX_PSNR_DB] * 3
    torch.testing.assert_close(ssim(clip, clip), torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-9)


def test_a_perfect_frame_leaves_the_mean_finite() -> None:
    clip = picture(2, 16, 20)
    other = clip.copy()
    other[1] ^= 1
    assert np.isfinite(psnr(clip, other).mean())
    assert np.isfinite(decibels(0.0))


@pytest.mark.parametrize("step", [1, 5, 40])
def test_psnr_of_a_constant_offset_is_the_textbook_value(step: int) -> None:
    flat = np.full((12, 12, 3), 100, dtype=np.uint8)
    assert psnr(flat, flat + np.uint8(step)).item() == pytest.approx(20 * math.log10(255 / step))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(11, 24), st.integers(11, 24))
def test_symmetric_bounded_and_the_same_for_bytes_and_floats(seed: int, height: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = (rng.integers(0, 256, (2, height, width, 3), dtype=np.uint8) for _ in range(2))
    for measure in (psnr, ssim):
        forward = measure(a, b)
        np.testing.assert_allclose(forward, measure(b, a))
        as_floats = measure(torch.from_numpy(a) / 255, torch.from_numpy(b) / 255)
        np.testing.assert_allclose(forward, as_floats, rtol=1e-5, atol=1e-5)
    assert (ssim(a, b).abs() <= 1 + 1e-9).all()


def test_frames_are_scored_one_by_one() -> None:
    a, b = picture(2, 3, 14, 15), picture(2, 3, 14, 15)
    for measure in (psnr, ssim):
        whole = measure(a, b)
        assert whole.shape == (2, 3)
        np.testing.assert_allclose(whole[1, 2], measure(a[1, 2], b[1, 2]))


def test_more_noise_scores_lower() -> None:
    clean = np.tile(np.linspace(40, 200, 32)[:, None, None], (1, 32, 3))
    noise = RNG.standard_normal(clean.shape)
    noisy = [np.clip(clean + noise * scale, 0, 255).astype(np.uint8) for scale in (2, 8, 32)]
    reference = clean.astype(np.uint8)
    for measure in (psnr, ssim):
        scores = [measure(reference, candidate).item() for candidate in noisy]
        assert scores == sorted(scores, reverse=True)


def test_ssim_of_a_single_window_equals_the_published_formula() -> None:
    a, b = RNG.random((2, 11, 11))
    weights = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(weights, weights)
    window /= window.sum()
    mu_a, mu_b = (window * a).sum(), (window * b).sum()
    var_a, var_b = (window * (a - mu_a) ** 2).sum(), (window * (b - mu_b) ** 2).sum()
    covariance = (window * (a - mu_a) * (b - mu_b)).sum()
    expected = ((2 * mu_a * mu_b + 1e-4) * (2 * covariance + 9e-4)) / (
        (mu_a**2 + mu_b**2 + 1e-4) * (var_a + var_b + 9e-4)
    )
    assert ssim(a[..., None], b[..., None]).item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        (picture(12, 12), picture(12, 13), "shape"),
        (picture(12, 12)[..., 0], picture(12, 12)[..., 0], "shape"),
        (picture(12, 12), picture(12, 12).astype(np.float32), "float"),
        (picture(12, 12).astype(np.int64), picture(12, 12).astype(np.int64), "int64"),
    ],
)
def test_what_cannot_be_compared_is_refused(a: np.ndarray, b: np.ndarray, words: str) -> None:
    for measure in (psnr, ssim):
        with pytest.raises(ValueError, match=words):
            measure(a, b)


def test_ssim_refuses_frames_smaller_than_its_window() -> None:
    with pytest.raises(ValueError, match="11x11"):
        ssim(picture(10, 30), picture(10, 30))
