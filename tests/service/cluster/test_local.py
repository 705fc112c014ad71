"""The rest of a killed service: its processes would hold the ports of the next one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.cluster.local import end_orphans, private_folder
from service.cluster.ray_environment import ray_environment
from service.settings import Settings


@pytest.fixture
def parent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="o", dir="/tmp") as path:
        short = Path(path).rename(f"/tmp/{Path(path).name[-5:]}")
        monkeypatch.setenv("RAY_TMPDIR", str(short))
        yield short
        short.rename(path)


def test_what_a_killed_service_started_is_ended_and_what_a_living_one_did_stays(parent: Path) -> None:
    left, checkout = parent / "omnitok_left", parent / "omnitok_checkout"
    with private_folder() as held:
        left.mkdir()
        left.chmod(held.stat().st_mode)
        checkout.mkdir(mode=0o700)
        environments = [ray_environment(Settings(proxy="python"), folder) for folder in (left, held, checkout)]
        started = [subprocess.Popen(["sleep", "inf"], env=os.environ | one) for one in (*environments, {})]
        orphan, *others = started
        try:
            assert end_orphans()
            assert orphan.wait() == -signal.SIGKILL
            assert not end_orphans()
            with private_folder():
                assert not left.exists(), "it is swept"
            assert [process.poll() for process in others] == [None, None, None]
        finally:
            for process in started:
                process.kill()
                process.wait()


def test_nothing_of_a_service_outlives_its_folder(parent: Path) -> None:
    with private_folder() as folder:
        environment = os.environ | ray_environment(Settings(proxy="python"), folder)
        process = subprocess.Popen(["sleep", "inf"], env=environment)
    assert process.wait() == -signal.SIGKILL


def test_a_process_that_has_named_itself_is_ended_too(parent: Path) -> None:
    """Ray's agent does, and holds the port of Ray's metrics for a minute after its raylet."""
    left = parent / "omnitok_left"
    with private_folder() as held:
        left.mkdir()
        left.chmod(held.stat().st_mode)
    program = "import ray._raylet as ray; ray.setproctitle('ray::Agent'); print(flush=True); input()"
    environment = ray_environment(Settings(proxy="python"), left)  # a title covers no more than 2 KiB of it
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", program], env=environment, **pipes) as agent:
        try:
            agent.stdout.readline()
            assert end_orphans()
            assert agent.wait() == -signal.SIGKILL
        finally:
            agent.kill()
