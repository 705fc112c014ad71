"""One tile for every launch of a module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any
from unittest import mock


@contextmanager
def tiled(launch: ModuleType, tile: Any) -> Iterator[None]:
    """Use this tile, or each launch's default if it is None."""
    with mock.patch.object(launch, "tuned_tile", lambda *key: tile or key[-1]):
        yield
