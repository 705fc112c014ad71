"""The folder of sockets: private to its user, swept when nobody uses it, refused where its path is too long."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.link.directory import SocketDirectory, sweep


@pytest.fixture
def short_tmp(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder whose path leaves enough of a socket's address."""
    with tempfile.TemporaryDirectory(prefix="o-", dir="/tmp") as path:
        monkeypatch.setenv("TMPDIR", path)
        yield Path(path)


def test_the_folder_is_private(short_tmp: Path) -> None:
    one, same, other = SocketDirectory("session", "node"), SocketDirectory("session", "node"), SocketDirectory("a", "b")
    assert one.path == same.path != other.path
    assert one.path.parent == short_tmp
    assert one.path.stat().st_mode & 0o777 == 0o700
    one.path.chmod(0o770)
    with pytest.raises(OSError, match="this user alone"):
        SocketDirectory("session", "node")
    for directory in (one, same, other):
        directory.close()


def test_it_is_the_same_while_the_disk_is_full(short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = SocketDirectory("session")
    monkeypatch.setattr("tempfile.tempdir", "/var/tmp")  # as Python finds it then
    after = SocketDirectory("session")
    assert after.path == before.path
    for directory in (before, after):
        directory.close()


@pytest.mark.parametrize("named", ["/nonexistent", ".", ""])
def test_a_temporary_folder_that_is_none_is_left_out(named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", named)
    directory = SocketDirectory("session", os.urandom(8).hex())
    assert directory.path.parent == Path("/tmp")
    directory.close()
    sweep()


def test_folders_that_nobody_uses_are_swept(short_tmp: Path) -> None:
    used, left = SocketDirectory("used"), SocketDirectory("left")
    (used.path / "a.sock").touch()
    (left.path / "a.sock").touch()
    left.close()
    SocketDirectory("next").close()
    assert (used.path / "a.sock").exists()
    assert not left.path.exists()
    used.close()


def test_folders_of_others_stay(short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user = os.geteuid() + 1
    others = short_tmp / f"omnitok-link-{user}-others"
    others.mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: user)
    sweep()
    assert others.is_dir()


def test_a_folder_that_is_swept_before_it_is_locked_is_made_again(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, once = os.open, iter([True])

    def late(*arguments: Any, **named: Any) -> int:
        if next(once, False):
            sweep()
        return opened(*arguments, **named)

    monkeypatch.setattr(os, "open", late)
    directory = SocketDirectory("session")
    assert directory.path.is_dir()
    directory.close()


def test_a_path_that_is_too_long_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("long" * 20)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", os.fspath(long))
    with pytest.raises(OSError, match="TMPDIR"):
        SocketDirectory("session")
