"""Choice of the device, and the number of usable cores."""

from __future__ import annotations

import os

import torch

from training.errors import TrainingError


def device_of(name: str | None) -> torch.device:
    """The device of a name, known to be there.

    Args:
        name: "cpu", "cuda" or "cuda:N"; None for CUDA where there is one.

    Raises:
        TrainingError: another name, or no such device in this machine.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name is None:
        return torch.device("cuda" if count else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise TrainingError(f"there is no device {name!r}; known are cpu, cuda and cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise TrainingError(f"there is no device {name!r}; known are cpu, cuda and cuda:N")
    if device.type == "cuda" and (device.index or 0) >= count:
        raise TrainingError(f"the device {name!r} is not in this machine: PyTorch sees {count} CUDA devices")
    return device


def cores() -> int:
    """Cores that this process may use, which a container or a scheduler may have bounded."""
    return len(os.sched_getaffinity(0))
