"""Comparison of checkpoints."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def equal(first: Any, second: Any, but: tuple[str, ...] = ("seconds",)) -> bool:
    """Return whether two checkpoints hold the same bits, but for keys such as the time that they took."""
    if isinstance(first, dict):
        same = first.keys() == second.keys()
        return same and all(equal(first[key], second[key], but) for key in first if key not in but)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(equal(*pair, but) for pair in zip(first, second, strict=True))
    return torch.equal(first, second) if isinstance(first, Tensor) else first == second
