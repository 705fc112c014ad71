"""Fixtures of the media tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import media_samples
import pytest
from handover import Handover

from service.sandbox.process import WorkerProcess


@pytest.fixture(scope="module", autouse=True)
def others() -> None:
    """Leave out the workers of servers that live as long as the session, and may have begun between two modules."""
    media_samples.OTHERS.update(media_samples.workers())


@pytest.fixture
def handover(monkeypatch: pytest.MonkeyPatch) -> Handover:
    handover = Handover()
    for name in ("decode", "begin_picture"):
        monkeypatch.setattr(WorkerProcess, name, noting(handover, getattr(WorkerProcess, name)))
    return handover


def noting(handover: Handover, give: Callable[..., Any]) -> Callable[..., Any]:
    def noted(worker: WorkerProcess, *arguments: Any) -> Any:
        handover.note(worker.pid)
        return give(worker, *arguments)

    return noted
