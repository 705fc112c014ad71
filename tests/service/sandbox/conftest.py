"""Fixtures of the media tests."""

from __future__ import annotations

from typing import Any

import media_samples
import pytest
from handover import Handover

from media.types import Frames
from service.sandbox.process import WorkerProcess


@pytest.fixture(scope="module", autouse=True)
def others() -> None:
    """Leave out the workers of servers that live as long as the session, and may have begun between two modules."""
    media_samples.OTHERS.update(media_samples.workers())


@pytest.fixture
def handover(monkeypatch: pytest.MonkeyPatch) -> Handover:
    handover, decode = Handover(), WorkerProcess.decode

    def noted(self: WorkerProcess, *arguments: Any) -> Frames:
        handover.note(self.pid)
        return decode(self, *arguments)

    monkeypatch.setattr(WorkerProcess, "decode", noted)
    return handover
