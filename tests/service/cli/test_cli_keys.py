"""`omnitok keys`, and the refusal to serve others without any."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.keys import KeyRing

Omnitok = Callable[..., Any]


def test_a_key_is_made_listed_and_revoked(omnitok: Omnitok, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    made = omnitok(f"keys add app --scope encode --budget 5000 --file {file}")
    assert made.code == 0
    secret = made.out.strip()
    found = KeyRing(file).find(secret)
    assert found is not None
    assert (found.name, found.scopes, found.positions_per_minute) == ("app", ("encode",), 5000)
    listed = omnitok(f"keys list --file {file}")
    assert "app" in listed.out
    assert secret not in listed.out
    assert omnitok(f"keys add app --file {file}").code == 1
    assert omnitok(f"keys remove other --file {file}").code == 1
    assert omnitok(f"keys remove app --file {file}").code == 0
    assert KeyRing(file).find(secret) is None


@pytest.mark.parametrize("line", ["keys add 'a b'", "keys add app --scope root", "keys add app --budget 0"])
def test_wrong_usage(omnitok: Omnitok, tmp_path: Path, line: str) -> None:
    assert omnitok(f"{line} --file {tmp_path / 'keys.json'}").code == 2
    assert not (tmp_path / "keys.json").exists()


def test_the_service_does_not_start_open_to_others(omnitok: Omnitok) -> None:
    run = omnitok("serve --host 0.0.0.0")
    assert run.code == 1
    assert "omnitok keys add NAME" in run.err
