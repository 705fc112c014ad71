"""Ray's token of a cluster of this machine."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]

from service.cluster.ray_token import ray_token
from service.cluster.signals import StoppedError


def known() -> str:
    return str(AuthenticationTokenLoader.instance().get_raw_token(ignore_auth_mode=True))


def test_each_cluster_has_its_own_and_needs_no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/nonexistent")
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    tokens = set()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        with ray_token(tmp_path / name):
            (file,) = (tmp_path / name).iterdir()
            assert file.read_text() == known()
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
            tokens.add(known())
    assert len(tokens) == 2


def test_a_start_that_is_stopped_keeps_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(StoppedError), ray_token(tmp_path):
        raise StoppedError
    (file,) = tmp_path.iterdir()
    assert file.read_text() == known()
    AuthenticationTokenLoader.instance().reset_cache()


def test_that_of_the_environment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").write_text("a" * 64)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "mine"))
    with ray_token(tmp_path):
        assert known() == "a" * 64
