"""Folders of processes that were killed go away; folders of those that run stay."""

from __future__ import annotations

import os
import shutil
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


def test_a_folder_that_is_swept_before_its_lock_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    lock, swept = held_directory._lock, []

    def late(path: Path) -> int | None:
        descriptor = lock(path)
        if not swept:
            swept.append(path)
            shutil.rmtree(path)
        return descriptor

    monkeypatch.setattr(held_directory, "_lock", late)
    held = HeldDirectory("held-")
    assert held.path.is_dir()
    assert held.path not in swept
    opened = [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    assert f"{swept[0]} (deleted)" not in opened
    held.close()
