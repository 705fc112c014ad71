"""Memory that is asked for without a value holds NaN, so that an element nobody writes shows."""

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
    """Within, `torch.empty` is full of NaN."""
    with mock.patch("torch.empty", _filled):
        yield
