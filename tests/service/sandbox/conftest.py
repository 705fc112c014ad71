"""Fixtures of the media tests."""

from __future__ import annotations

import media_samples
import pytest


@pytest.fixture(scope="session", autouse=True)
def others() -> None:
    """Pools of other rooms live as long as the session: their workers are not counted here."""
    media_samples.OTHERS.update(media_samples.workers())
