"""Machines on which the service could not work, each refused with a sentence before anything starts."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from service.cluster import start_checks
from service.cluster.start_checks import StartError, check_folders, check_loopback, check_open_files
from service.settings import Settings

UNSHARE = ["unshare", *(["--user", "--map-root-user"] if os.geteuid() else []), "--net"]
CODE = "from service.cluster.start_checks import check_loopback as check; check()"


def test_this_machine_has_loopback() -> None:
    check_loopback()


@pytest.mark.parametrize("address", ["192.0.2.1", "255.255.255.255"])
def test_a_machine_without_the_address_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start_checks, "LOOPBACK", address)
    with pytest.raises(StartError, match=rf"^Ray needs the address {address}, .*lo up"):
        check_loopback()


@pytest.mark.skipif(subprocess.run([*UNSHARE, "true"], check=False).returncode != 0, reason="no namespaces here")
def test_loopback_that_is_down_is_refused() -> None:
    done = subprocess.run([*UNSHARE, sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert "StartError: Ray needs the address 127.0.0.1, " in done.stderr


@pytest.mark.parametrize("level", ["1", "2"])
def test_python_without_docstrings_is_refused(level: str) -> None:
    code = "from service.cluster.start_checks import check_python as check; check()"
    environment = os.environ | {"PYTHONOPTIMIZE": level}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode != 0) == ("PYTHONOPTIMIZE=2" in done.stderr) == (level == "2"), done.stderr


def test_a_folder_too_long_for_sockets_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    check_folders()
    monkeypatch.setenv("RAY_TMPDIR", f"/tmp/{'x' * 80}")
    with pytest.raises(StartError, match=r"^The folder /tmp/x+/ray .* too long by \d+ bytes\. Set RAY_TMPDIR"):
        check_folders()


@pytest.mark.parametrize("name", ["a'b", 'a"b', "a\\b"])
def test_a_folder_that_ray_would_misread_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/tmp/a b")
    check_folders()
    monkeypatch.setenv("RAY_TMPDIR", f"/tmp/{name}")
    with pytest.raises(StartError, match="a quote in its path"):
        check_folders()


def test_a_working_folder_that_was_removed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(StartError, match="working folder"):
        check_folders()


def test_too_few_files_for_connections_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(proxy="haproxy")
    for files in (resource.RLIM_INFINITY, 4096):
        monkeypatch.setattr(resource, "getrlimit", lambda _, files=files: (256, files))
        check_open_files(settings)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 1024))
    with pytest.raises(StartError, match=r"^A process may open 1024 files here, .* serve 1 connections\."):
        check_open_files(settings)
    check_open_files(Settings(proxy="haproxy", max_connections=1))
    check_open_files(Settings(proxy="python"))
