"""The rest of a killed service: HAProxy would hold the port of the next one."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.cluster.local import end_orphans, private_folder


@pytest.fixture
def parent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="o", dir="/tmp") as path:
        short = Path(path).rename(f"/tmp/{Path(path).name[-5:]}")
        monkeypatch.setenv("RAY_TMPDIR", str(short))
        yield short
        short.rename(path)


def test_haproxy_of_a_killed_service_is_ended_and_that_of_a_living_one_stays(parent: Path) -> None:
    left = parent / "omnitok_left"
    left.mkdir()
    with private_folder() as held:
        assert not left.exists(), "it is swept"
        left.mkdir()
        started = []
        for folder, name in ((left, "haproxy"), (held, "haproxy"), (left, "other")):
            program = shutil.copy(shutil.which("sleep") or "", folder / name)
            started.append(subprocess.Popen([program, "inf"]))
        orphan, *others = started
        try:
            end_orphans()
            assert orphan.wait() == -signal.SIGKILL
            assert [process.poll() for process in others] == [None, None]
        finally:
            for process in started:
                process.kill()
                process.wait()
