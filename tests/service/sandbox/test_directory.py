"""Folders of services that were killed go away; folders of those that run stay."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from service.sandbox.directory import WorkerDirectory

ROOT = Path(__file__).parents[3]
HOLD = """
import sys
from service.sandbox.directory import WorkerDirectory
held = WorkerDirectory()
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
    others = tmp_path / "media-of-others"
    others.mkdir()
    with service:
        held = WorkerDirectory()
        assert left.is_dir()  # its service runs
        service.send_signal(signal.SIGKILL)
    WorkerDirectory().close()
    assert not left.exists()
    assert held.path.is_dir()
    assert others.is_dir()
    held.close()
    assert not held.path.exists()
