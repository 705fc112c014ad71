"""Ports that are chosen before a program listens there."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.service.process import free_port
from service.cluster.ports import reserve_port
from service.cluster.ray_environment import HAPROXY_PORTS, cluster_environment
from service.settings import Settings

CHOOSE = """
import sys
from service.cluster.ports import reserve_port
print(reserve_port(range(int(sys.argv[1]), 32_768))[0])
"""


def test_whoever_chooses_meanwhile_gets_another_port() -> None:
    reserved = free_port()
    chosen = subprocess.run([sys.executable, "-c", CHOOSE, str(reserved)], capture_output=True, text=True, check=True)
    assert int(chosen.stdout) > reserved
    with socket.create_server(("127.0.0.1", reserved)):
        pass


def test_a_port_that_somebody_listens_on_is_left_alone() -> None:
    other = free_port()
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        with pytest.raises(OSError, match="in use on this machine"):
            reserve_port([taken, other])


def test_a_cluster_holds_the_ports_of_its_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in HAPROXY_PORTS:
        monkeypatch.delenv(name, raising=False)
    with cluster_environment(Settings(proxy="haproxy"), tmp_path):
        ports = [int(os.environ[name]) for name in HAPROXY_PORTS]
        assert len(set(ports)) == len(HAPROXY_PORTS)
        with pytest.raises(OSError, match="in use on this machine"):
            reserve_port(ports)
    assert not HAPROXY_PORTS.keys() & os.environ.keys()
