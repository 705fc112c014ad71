"""Folders of processes that were killed go away; folders of those that run stay."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from service import held_directory
from service.held_directory import HeldDirectory

ROOT = Path(__file__).parents[2]
HOLD = """
import sys
from service.held_directory import HeldDirectory
held = HeldDirectory("held-")
print(held.path, flush=True)
sys.stdin.read()
"""


def test_what_a_kill_left_is_swept_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    service = subprocess.Popen(
        [sys.executable, "-c", HOLD],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert service.stdout is not None
    left = Path(service.stdout.readline().strip())
    others = tmp_path / "of-others"
    others.mkdir()
    with service:
        held = HeldDirectory("held-")
        assert left.is_dir()  # its service runs
        service.send_signal(signal.SIGKILL)
    HeldDirectory("held-").close()
    assert not left.exists()
    assert held.path.is_dir()
    assert others.is_dir()
    held.close()
    assert not held.path.exists()


@pytest.mark.parametrize("mode", [0o755, 0o700])
def test_a_folder_that_only_has_such_a_name_stays(tmp_path: Path, mode: int) -> None:
    """It may be the checkout that the service runs from."""
    (results := tmp_path / "held-checkout").mkdir()
    results.chmod(mode)
    HeldDirectory("held-", tmp_path).close()
    assert results.is_dir()


def test_a_new_folder_is_not_taken_for_an_abandoned_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flock = fcntl.flock

    def others_look(descriptor: int, operation: int) -> None:
        assert not [*held_directory.abandoned("held-", tmp_path)]
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", others_look)
    held = HeldDirectory("held-", tmp_path)
    monkeypatch.undo()
    assert held.path.is_dir()
    assert not [*held_directory.abandoned("held-", tmp_path)]
    held.close()
