"""The rest of a killed service on its node: the next one needs the port of its metrics."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import eventually

from benchmarks.service.process import free_port
from service.cluster.node_metrics import FOLDER, end_orphaned_exporters
from service.link.directory import SocketDirectory
from service.metrics import keeper
from service.metrics.folder import GAUGES, process_name
from service.metrics.keeper import Keeper, stop


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, int]]:
    """The folder of an exporter of which nobody else knows, and its port."""
    monkeypatch.setattr(keeper, "END_SECONDS", 600.0)
    with tempfile.TemporaryDirectory(prefix="o-", dir="/tmp") as path:
        monkeypatch.setattr("tempfile.tempdir", path)
        service, port = SocketDirectory("killed"), free_port()
        folder = service.path / FOLDER
        folder.mkdir()
        one = Keeper(folder, "127.0.0.1", port, {})
        one.start()
        eventually(lambda: listens(port))
        one.close()
        service.close()
        yield folder, port
        stop(folder)


def listens(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


def test_the_exporter_of_a_killed_service_makes_way(node: tuple[Path, int]) -> None:
    _, port = node
    end_orphaned_exporters()
    assert not listens(port)


def test_that_of_a_living_one_stays(node: tuple[Path, int]) -> None:
    folder, port = node
    (folder / f"{min(GAUGES)}_{process_name(os.getpid())}.db").touch()
    end_orphaned_exporters()
    assert listens(port)


def test_that_of_another_user_stays(node: tuple[Path, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its owner could name any process in it."""
    folder, port = node
    user = os.geteuid() + 1
    with monkeypatch.context() as patched:
        patched.setattr(os, "geteuid", lambda: user)
        forged = folder.parent.with_name(f"omnitok-link-{user}-forged")
        forged.symlink_to(folder.parent)
        folder.parent.rename(moved := folder.parent.with_name(f"omnitok-link-{user}-moved"))
        end_orphaned_exporters()
        assert listens(port)
        moved.rename(folder.parent)
