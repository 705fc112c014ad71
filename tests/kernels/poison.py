"""Uninitialised memory full of NaN, which reveals elements that a kernel does not write."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch

_empty = torch.empty


def _filled(*args: Any, **kwargs: Any) -> torch.Tensor:
    out = _empty(*args, **kwargs)
    return out.fill_(torch.nan) if out.is_floating_point() else out


@contextmanager
def poisoned() -> Iterator[None]:
    """Fill the memory of `torch.empty` with NaN."""
    with mock.patch("torch.empty", _filled):
        yield
