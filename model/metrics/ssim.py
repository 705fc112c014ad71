"""SSIM of frames, channels last, on the device that holds them."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.metrics.psnr import check_comparable

Pixels = Tensor | NDArray[np.uint8] | NDArray[np.float32]

SSIM_WINDOW = 11  # side of the Gaussian window, pixels
SSIM_SIGMA = 1.5
SSIM_K1, SSIM_K2 = 0.01, 0.03


def ssim(reference: Pixels, candidate: Pixels) -> Tensor:
    """Return the structural similarity of every frame, averaged over positions and channels.

    A Gaussian window of 11x11 with standard deviation 1.5, population statistics, K1 = 0.01 and K2 = 0.03; only windows
    wholly inside the frame count. Each colour channel is compared by itself.

    Args:
        reference: (..., H, W, C) with H, W >= 11, uint8 in [0, 255] or float in a range of width 1.
        candidate: same shape and kind.

    Returns:
        float64 (...), at most 1.

    Raises:
        ValueError: the two differ in shape or kind, have fewer than three axes, or are smaller than the window.

    Source: Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to structural similarity",
    IEEE Transactions on Image Processing 13(4), 2004, equation 13 and section III-C.
    """
    first, second = _comparable(reference, candidate)
    height, width, channels = first.shape[-3:]
    if min(height, width) < SSIM_WINDOW:
        raise ValueError(f"SSIM needs frames of at least {SSIM_WINDOW}x{SSIM_WINDOW} pixels, not {height}x{width}.")
    pairs = zip(
        first.reshape(-1, height, width, channels), second.reshape(-1, height, width, channels), strict=True
    )  # one frame at a time, since the five maps of a long clip would fill the memory
    scores = [_ssim_of_frame(a, b) for a, b in pairs]
    return torch.stack(scores).reshape(first.shape[:-3]) if scores else first.new_zeros(first.shape[:-3])


def _comparable(reference: Pixels, candidate: Pixels) -> tuple[Tensor, Tensor]:
    """Convert both to float64 with peak 1; double precision also keeps a GPU from rounding to TF32."""
    first, second = _tensor(reference), _tensor(candidate)
    kinds = [str(frames.dtype).removeprefix("torch.") for frames in (first, second)]
    byte = check_comparable(tuple(first.shape), tuple(second.shape), *kinds)
    scale = 1 / 255 if byte else 1.0
    return first.double() * scale, second.double() * scale


def _tensor(pixels: Pixels) -> Tensor:
    # torch cannot mark a tensor read-only, so a read-only array is copied
    return pixels if isinstance(pixels, Tensor) else torch.from_numpy(np.require(pixels, requirements="W"))


def _ssim_of_frame(first: Tensor, second: Tensor) -> Tensor:
    maps = (first, second, first * first, second * second, first * second)
    mean_a, mean_b, square_a, square_b, product = (_blur(_blur(values, 0), 1) for values in maps)
    var_a, var_b, covariance = square_a - mean_a**2, square_b - mean_b**2, product - mean_a * mean_b
    c1, c2 = SSIM_K1**2, SSIM_K2**2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    contrast = (2 * covariance + c2) / (var_a + var_b + c2)
    return (luminance * contrast).mean()


def _blur(values: Tensor, axis: int) -> Tensor:
    """Average along one axis under the Gaussian window, by shifted sums: library convolutions are slow in float64."""
    size = values.shape[axis] - SSIM_WINDOW + 1
    weights = [math.exp(-((offset - SSIM_WINDOW // 2) ** 2) / (2 * SSIM_SIGMA**2)) for offset in range(SSIM_WINDOW)]
    means = values.narrow(axis, 0, size) * (weights[0] / sum(weights))
    for offset in range(1, SSIM_WINDOW):
        means.add_(values.narrow(axis, offset, size), alpha=weights[offset] / sum(weights))
    return means
