"""Prometheus, promtool and amtool for the tests: from the PATH, or as `make tools` unpacks them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

TIMEOUT_SECONDS = 300  # only ends a test that hangs
UNPACKED = Path(__file__).parents[2] / "build" / "tools" / "usr" / "bin"


def find_tool(name: str) -> str | None:
    """Return the path of a program, or None without it."""
    return shutil.which(name) or shutil.which(name, path=str(UNPACKED))


def needs(name: str) -> pytest.MarkDecorator:
    """Skip a test where a program is missing."""
    return pytest.mark.skipif(find_tool(name) is None, reason=f"{name} is missing; `make tools` fetches it on Debian")


def tool(name: str) -> str:
    """Return the path of a program that is there."""
    path = find_tool(name)
    assert path is not None, name
    return path


def run_tool(name: str, *arguments: str, folder: Path | None = None) -> str:
    """Return what a program printed.

    Args:
        name: as for `tool`.
        arguments: of its command line.
        folder: to run in.

    Raises:
        AssertionError: it failed; with all that it wrote.
    """
    done = subprocess.run([tool(name), *arguments], cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
