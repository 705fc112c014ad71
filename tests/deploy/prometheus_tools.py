"""Where the tests find Prometheus, promtool and amtool: on the PATH, or where `make tools` unpacks them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

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
