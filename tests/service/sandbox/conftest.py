"""Fixtures of the media tests."""

from __future__ import annotations

import media_samples
import pytest


@pytest.fixture(scope="module", autouse=True)
def others() -> None:
    """Leave out the workers of servers that live as long as the session, and may have begun between two modules."""
    media_samples.OTHERS.update(media_samples.workers())
