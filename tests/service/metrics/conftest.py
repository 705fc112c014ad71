"""Processes that count in one folder, and what an exporter shows of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import values

from service.metrics.collectors import ProcessesCollector
from service.metrics.folder import join


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that this process counts in, until the test ends."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", os.fspath(tmp_path))
    monkeypatch.setattr(values, "ValueClass", values.ValueClass)
    join(tmp_path)
    return tmp_path


@pytest.fixture
def read(folder: Path) -> Callable[..., float]:
    """Return the sum of the samples of one name that have the given labels."""

    def value(name: str, **labels: str) -> float:
        samples = [sample for metric in ProcessesCollector(folder).collect() for sample in metric.samples]
        found = [one.value for one in samples if one.name == f"omnitok_{name}" and labels.items() <= one.labels.items()]
        assert found, f"{name} has no sample with {labels}"
        return sum(found)

    return value
