"""Folders of Ray's sessions: old ones of earlier services go, and all others stay."""

from __future__ import annotations

import stat
from pathlib import Path

from service.cluster.sessions import KEPT_SESSIONS, held_session


def session(parent: Path, number: int) -> Path:
    path = parent / f"session_2026-01-01_00-00-{number:02d}_000000_7"
    (path / "logs").mkdir(parents=True)
    (path / "logs" / "raylet.out").touch()
    return path


def test_a_session_is_closed_to_other_users(tmp_path: Path) -> None:
    folder = session(tmp_path, 0)
    for path in (tmp_path, folder):
        path.chmod(0o777)  # as Ray does
    with held_session(folder):
        assert (stat.S_IMODE(tmp_path.stat().st_mode), stat.S_IMODE(folder.stat().st_mode)) == (0o1777, 0o700)


def test_old_sessions_of_services_go_and_the_last_ones_stay(tmp_path: Path) -> None:
    foreign = session(tmp_path, 0)
    sessions = [session(tmp_path, number) for number in range(1, KEPT_SESSIONS + 4)]
    running, *ended, last = sessions
    with held_session(running):
        for path in ended:
            with held_session(path):
                pass
        (tmp_path / "session_latest").symlink_to(last)
        with held_session(last):
            left = {path for path in sessions if (path / "logs" / "raylet.out").exists()}
        assert left == {running, *ended[-KEPT_SESSIONS:], last}
    assert foreign.is_dir(), "nobody held it"
