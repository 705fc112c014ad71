"""Shared by every test: a fixed random order of examples, few threads, and tables at the end of the run."""

from __future__ import annotations

import os

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models: threads would only wait for each other
os.environ |= dict.fromkeys(("no_proxy", "NO_PROXY"), "127.0.0.1,localhost")  # where all servers of tests are

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "project", deadline=None, derandomize=True, max_examples=25, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("project")


def pytest_configure() -> None:
    """Forget the settings of the shell, but for those of the tests themselves."""
    for name in [name for name in os.environ if name.startswith("OMNITOK_") and "DOCKER" not in name]:
        del os.environ[name]


def pytest_collection_finish() -> None:
    """Refuse the priority of real time, which libraries can ask for: every other process would starve."""
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


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
