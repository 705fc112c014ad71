"""Choice of the device, and the number of usable cores."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from training.errors import TrainingError

if TYPE_CHECKING:
    import torch


def resolve_device(name: str | None) -> torch.device:
    """Return the device of a name.

    Args:
        name: "cpu", "cuda" or "cuda:N"; None for CUDA where there is one.

    Raises:
        TrainingError: another name, or a device that this machine has not.
    """
    if name is not None and not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise TrainingError(f"There is no device {name!r}; known are cpu, cuda and cuda:N.")
    import torch  # not before a name is refused

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    device = torch.device(name or ("cuda" if count else "cpu"))
    if device.type == "cuda" and (device.index or 0) >= count:
        raise TrainingError(f"The device {name!r} is not in this machine: PyTorch sees {count} CUDA devices.")
    return device


def cores() -> int:
    """Return the cores that this process may use, which a container or a scheduler may have bounded."""
    return len(os.sched_getaffinity(0))
