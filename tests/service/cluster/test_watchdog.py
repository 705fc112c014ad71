"""The watch over a cluster, with scripted parts: what ends the service and what does not."""

from __future__ import annotations

import math
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from waiting import eventually

from benchmarks.service.process import free_port
from service.cluster import watchdog as module
from service.cluster.watchdog import CONTROLLER_SECONDS, PROXY_SECONDS, LostError, Watchdog, local_watchdog
from service.metrics.folder import process_name


@dataclass
class Parts:
    """A cluster whose parts die when the test says so."""

    now: float = 0.0
    dead: list[str] = field(default_factory=list)
    refuses: bool = False

    def watchdog(self, ask: Any = lambda: None) -> Watchdog:
        return Watchdog(lambda: self.dead, lambda: self.refuses, ask, lambda: self.now)


def test_a_dead_raylet_ends_the_service_at_once() -> None:
    parts = Parts()
    watchdog = parts.watchdog()
    watchdog.check()
    parts.dead = ["raylet"]
    with pytest.raises(LostError, match="raylet died"):
        watchdog.check()


def test_a_raylet_that_dies_during_the_start_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHECK_SECONDS", 0.01)
    parts, lost = Parts(refuses=True), threading.Event()
    reasons: list[str] = []

    def abandon(error: LostError) -> None:
        reasons.append(str(error))
        lost.set()

    with parts.watchdog().during_start(abandon):
        parts.dead = ["raylet"]
        assert lost.wait(60)
    assert "raylet died" in reasons[0]


def test_the_look_during_the_start_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHECK_SECONDS", 0.0)
    lost, looks = threading.Event(), iter([[], LookupError("nobody foresaw this"), ["raylet"]])

    def dead() -> list[str]:
        found = next(looks)
        if isinstance(found, Exception):
            raise found
        return found

    with Watchdog(dead, lambda: False, lambda: None).during_start(lambda _: lost.set()):
        assert lost.wait(60)


EARLY = """
import os, subprocess, sys
from service.cluster.watchdog import local_watchdog
watchdog = local_watchdog("127.0.0.1", 1)
os.symlink("/bin/true", "raylet")
process = subprocess.Popen(["./raylet"])
os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
try:
    watchdog.check_ray()
except OSError as error:
    print(error)
process.wait()
watchdog.check_ray()
"""


def test_a_raylet_that_dies_before_ray_knows_all_its_processes_is_seen(tmp_path: Path) -> None:
    """In a process of its own: clusters of other tests leave children that have ended too."""
    done = subprocess.run(
        [sys.executable, "-c", EARLY], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=300
    )
    assert "Ray's raylet died" in done.stdout


def test_a_start_that_goes_well_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHECK_SECONDS", 0.01)
    parts = Parts(refuses=True, now=1000.0)
    lost: list[LostError] = []
    with parts.watchdog().during_start(lost.append):
        time.sleep(0.05)
    parts.dead = ["raylet"]
    time.sleep(0.05)
    assert not lost


def test_a_proxy_may_be_away_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONTROLLER_SECONDS", math.inf)  # nobody asks it here
    parts = Parts(refuses=True)
    watchdog = parts.watchdog()
    parts.now = PROXY_SECONDS
    watchdog.check()
    parts.refuses = False
    watchdog.check()
    parts.refuses, parts.now = True, 2 * PROXY_SECONDS
    watchdog.check()
    parts.now += 0.1
    with pytest.raises(LostError, match=r"The proxy has not answered for 30 s\."):
        watchdog.check()


def test_a_silent_controller_ends_the_service() -> None:
    parts = Parts()
    watchdog = parts.watchdog()
    parts.now = CONTROLLER_SECONDS + 0.1
    with pytest.raises(LostError, match="controller"):
        watchdog.check()


def test_the_controller_is_asked_until_something_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHECK_SECONDS", 0.01)
    parts, asked = Parts(), []

    def ask() -> None:
        asked.append(parts.now)
        if len(asked) == 1:
            raise RuntimeError("a controller that restarts")
        parts.dead = ["gcs_server"]

    with pytest.raises(LostError, match="gcs_server"):
        parts.watchdog(ask).watch()
    assert len(asked) >= 2


def test_a_port_is_refused_when_nobody_listens() -> None:
    def proxy_refuses(port: int) -> bool:
        return local_watchdog("127.0.0.1", port)._proxy_refuses()

    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        assert not proxy_refuses(server.getsockname()[1])
    assert proxy_refuses(free_port())


ORPHANS = """
import subprocess, sys
from service.cluster.watchdog import adopt_orphans, descendants_ended
adopt_orphans()
child = "import subprocess; print(subprocess.Popen(['sleep', '600']).pid)"
subprocess.run([sys.executable, "-c", child], check=True)
with descendants_ended(): pass
"""


def test_orphans_end_with_the_service() -> None:
    done = subprocess.run([sys.executable, "-c", ORPHANS], capture_output=True, text=True, check=True, timeout=300)
    eventually(lambda: process_name(int(done.stdout)) is None)  # it dies when it has its turn
