"""Every command of the README works as it is printed there."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
HERE = "http://127.0.0.1:8000"
# a cluster of its own; a released checkpoint; packages from the internet
NEEDS_MORE = ("omnitok serve", "omnitok convert", "omnitok data", "omnitok train", "omnitok evaluate")


def lines(program: str) -> list[str]:
    found = [line for kind, block in BLOCKS if kind == "sh" for line in block.splitlines()]
    return [line for line in found if line.startswith(program) and not line.startswith(NEEDS_MORE)]


@pytest.fixture
def checkout(omnitok: Callable[..., Any], bundles: Path) -> None:
    """The working folder looks like a fresh checkout, with a random bundle in place of the trained one."""
    Path("docs").symlink_to(ROOT / "docs")
    Path("bundles").mkdir()
    Path("bundles/demo-vq").symlink_to(bundles / "debug")


def test_the_commands(omnitok: Callable[..., Any], checkout: None, server: str) -> None:
    commands = lines("omnitok ")
    assert len(commands) >= 10
    for command in commands:
        run = omnitok(command.removeprefix("omnitok ").replace(HERE, server))
        assert run.code == 0, (command, run.err)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_curl_lines(checkout: None, server: str) -> None:
    commands = lines("curl ")
    assert len(commands) >= 9
    for command in commands:
        words = shlex.split(command.replace(HERE, server))
        subprocess.run([*words, "--fail", "--noproxy", "*"], check=True, timeout=60, stdout=subprocess.DEVNULL)
    signatures = {
        "igloo-decoded.png": b"\x89PNG",
        "photo-decoded.jpg": b"\xff\xd8\xff",
        "flight-decoded.mp4": b"ftyp",
        "flight.npz": b"PK",
        "igloo.webp": b"WEBP",
    }
    for name, signature in signatures.items():
        assert signature in Path(name).read_bytes()[:16]


def test_the_python_blocks(checkout: None, server: str, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    for program in (block for kind, block in BLOCKS if kind == "python"):
        exec(program.replace(HERE, server), names)
    assert names["frames"].shape == (17, 128, 128, 3)
    assert names["picture"].shape == (1, 128, 128, 3)
    assert len(names["results"]) == 2
    assert "unsupported-media-type" in capsys.readouterr().out
