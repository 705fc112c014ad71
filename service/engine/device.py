"""The device that runs the networks, and the precisions that it runs them in."""

from __future__ import annotations

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def choose_device(device: str) -> torch.device:
    """Return the device of a setting or an option: "cpu", "cuda", or "auto" for CUDA where there is one.

    Raises:
        ValueError: there is no CUDA device.
    """
    cuda = torch.cuda.is_available()
    if device == "cuda" and not cuda:
        raise ValueError("There is no CUDA device here; choose the device cpu.")
    return torch.device("cuda" if cuda and device != "cpu" else "cpu")
