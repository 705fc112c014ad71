"""Model cards: what they say of the code."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from training import card


def test_the_code_has_the_commit_of_its_own_repository_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = tmp_path / "home/venv/site-packages/training/card.py"
    installed.parent.mkdir(parents=True)

    def git(folder: Path, *words: str) -> str:
        command = ["git", "-C", str(folder), "-c", "user.name=A", "-c", "user.email=a@b.c", *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def commit(folder: Path) -> str:
        git(folder, "init", "-q")
        git(folder, "commit", "-q", "--allow-empty", "-m", "one")
        return git(folder, "rev-parse", "--short", "HEAD")

    monkeypatch.setattr(card, "__file__", str(installed))
    commit(tmp_path / "home")
    assert card.code_version() == "an unknown version"
    own = commit(installed.parents[1])
    assert card.code_version() == own
