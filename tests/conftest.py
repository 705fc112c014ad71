"""Shared by every test: a fixed random order of examples, few threads, and tables at the end of the run."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models: threads would only wait for each other

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "project", deadline=None, derandomize=True, max_examples=25, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("project")

TESTS = Path(__file__).parent
# Prometheus, promtool, kubectl and Chromium's driver wait by yielding: two take both cores from their own threads.
PROGRAMS = (TESTS / "service" / "cluster", TESTS / "deploy", TESTS / "service" / "api" / "test_page.py")


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in its own hook
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep a file's tests in one worker of pytest-xdist, since they share fixtures, and all that start big programs."""
    if hasattr(config, "workerinput"):
        for item in items:
            places = {item.path, *item.path.parents}
            group = "programs" if places.intersection(PROGRAMS) else str(item.path)
            item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture
def table(request: pytest.FixtureRequest):
    """A function that adds a row to a named table, printed when the run ends: `table(title, row)`."""
    return lambda title, row: request.node.user_properties.append((title, row))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    tables: dict[str, list[str]] = {}
    for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
        for title, row in report.user_properties:
            tables.setdefault(title, []).append(row)
    for title, rows in tables.items():
        terminalreporter.section(title)
        for row in rows:
            terminalreporter.write_line(row)
