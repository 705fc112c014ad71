"""PSNR of frames, in numpy: the HTTP tier reports it as the command and training do, and loads no torch."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

MAX_PSNR_DB = 100.0  # an unchanged frame has infinitely many, which no mean survives


def psnr(reference: ArrayLike, candidate: ArrayLike) -> NDArray[np.float64]:
    """Return the peak signal-to-noise ratio of every frame, 10 log10(peak^2 / MSE).

    Args:
        reference: array or CPU tensor (..., H, W, C), uint8 in [0, 255] (peak 255) or float in a range of width 1.
        candidate: same shape and kind.

    Returns:
        float64 (...), decibels, at most `MAX_PSNR_DB`.

    Raises:
        ValueError: the two differ in shape or kind, or have fewer than three axes.
    """
    first, second = np.asarray(reference), np.asarray(candidate)
    byte = check_comparable(first.shape, second.shape, str(first.dtype), str(second.dtype))
    frames = first.shape[:-3]
    errors = np.empty(frames)
    for index in np.ndindex(frames):  # one frame at a time, since differences are wider than bytes
        difference = np.subtract(first[index], second[index], dtype=np.float32 if byte else np.float64)
        errors[index] = np.square(difference).mean(dtype=np.float64)
    return decibels(errors / 255**2 if byte else errors)


def decibels(squared_error: ArrayLike) -> NDArray[np.float64]:
    """Return the PSNR of mean squared errors at peak 1, at most `MAX_PSNR_DB`."""
    with np.errstate(divide="ignore"):
        return np.minimum(-10.0 * np.log10(np.asarray(squared_error, np.float64)), MAX_PSNR_DB)


def check_comparable(first: tuple[int, ...], second: tuple[int, ...], kind: str, other: str) -> bool:
    """Raise unless two stacks of frames can be compared; return whether both hold bytes.

    Args:
        first, second: their shapes.
        kind, other: their element types, such as "uint8" or "float32".

    Raises:
        ValueError: the two differ in shape or kind, or have fewer than three axes.
    """
    if first != second or len(first) < 3:
        raise ValueError(f"Frames of equal shape (..., H, W, C) are compared, not {first} and {second}.")
    if not (kind == other == "uint8" or ("float" in kind and "float" in other)):
        raise ValueError(f"Frames are both uint8 or both float, not {kind} and {other}.")
    return kind == "uint8"
