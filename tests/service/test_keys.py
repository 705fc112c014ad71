"""Keys of callers: what the file holds, when it is read again, and what a budget allows."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from service.keys import Key, KeyFileError, KeyRing, check_access, new_key, read_keys, write_keys
from service.settings import Settings


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def test_the_file_holds_no_key(file: Path) -> None:
    secret, key = new_key("app", ["encode"])
    write_keys(file, [key])
    assert secret not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    assert read_keys(file) == (key,)
    assert KeyRing(file).find(secret) == key
    assert KeyRing(file).find(secret[:-1]) is None
    assert KeyRing(file).find(key.sha256) is None
    assert KeyRing(file).find("é" * 300) is None


def test_keys_are_random_and_long() -> None:
    secrets = {new_key("app", ["encode"])[0] for _ in range(50)}
    assert len(secrets) == 50
    assert all(secret.startswith("omnitok_") and len(secret) > 50 for secret in secrets)


def test_an_edit_holds_after_a_second_and_keeps_the_mode(file: Path) -> None:
    clock = Clock()
    (first, one), (second, two) = new_key("one", ["encode"]), new_key("two", ["decode"])
    write_keys(file, [one])
    file.chmod(0o640)
    ring = KeyRing(file, clock=clock)
    write_keys(file, [two])
    assert file.stat().st_mode & 0o777 == 0o640
    clock.now += 1.1
    assert ring.find(first) is None
    assert ring.find(second) == two


@pytest.mark.parametrize("damage", [b"", b"{", b"[{}]", b'[{"name": "x"}]', None])
def test_a_damaged_edit_leaves_the_last_good_keys(file: Path, damage: bytes | None) -> None:
    clock = Clock()
    secret, key = new_key("app", ["encode"])
    write_keys(file, [key])
    ring = KeyRing(file, clock=clock)
    if damage is None:
        file.unlink()
    else:
        file.write_bytes(damage)
    clock.now += 1.1
    assert ring.find(secret) == key
    write_keys(file, [])
    clock.now += 1.1
    assert ring.find(secret) is None


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("[]x", "not a file of keys"),
        ('[{"name": "a b", "sha256": "%s", "scopes": ["encode"]}]' % ("0" * 64), "name"),
        ('[{"name": "a", "sha256": "%s", "scopes": ["root"]}]' % ("0" * 64), "scopes"),
        ('[{"name": "a", "sha256": "%s", "scopes": []}]' % ("0" * 64), "scopes"),
        ('[{"name": "a", "sha256": "hello", "scopes": ["encode"]}]', "sha256"),
        ('[{"name": "a", "key": "hello"}]', "key"),
        (json.dumps([{"name": "a", "sha256": digit * 64, "scopes": ["encode"]} for digit in "12"]), "twice"),
    ],
)
def test_a_bad_file_is_refused_at_the_start_with_its_place(file: Path, text: str, names: str) -> None:
    file.write_text(text)
    with pytest.raises(KeyFileError, match=names):
        KeyRing(file)


def test_a_missing_file_is_refused(file: Path) -> None:
    with pytest.raises(KeyFileError, match="cannot be read"):
        read_keys(file)


def test_a_budget_refills_and_its_debt_is_paid_first(file: Path) -> None:
    clock = Clock()
    key = Key("app", "0" * 64, ("encode",), 600)
    write_keys(file, [key])
    ring = KeyRing(file, replicas=2, clock=clock)
    budget = ring.budget(key)
    assert budget is not None
    assert budget.left == 300, "each replica has its share"
    budget.left -= 400
    clock.now += 10
    assert ring.budget(key) is budget
    assert budget.left == pytest.approx(-50)
    assert budget.seconds_until(0) == pytest.approx(10)
    clock.now += 1000
    ring.budget(key)
    assert budget.left == 300
    assert ring.budget(Key("free", "1" * 64, ("encode",))) is None


def test_an_edit_of_others_refills_no_budget(file: Path) -> None:
    clock = Clock()
    key = Key("app", "0" * 64, ("encode",), 600)
    write_keys(file, [key])
    ring = KeyRing(file, clock=clock)
    budget = ring.budget(key)
    assert budget is not None
    budget.left = -1000
    write_keys(file, [key, Key("new", "1" * 64, ("encode",))])
    os.utime(file, (5, 5))
    clock.now += 2
    ring.find("x")
    later = ring.budget(key)
    assert later is not None
    assert later.left < -900


def test_scopes() -> None:
    assert Key("a", "0" * 64, ("encode",)).allows(["encode"])
    assert not Key("a", "0" * 64, ("encode",)).allows(["encode", "decode"])
    assert Key("a", "0" * 64, ("admin",)).allows(["encode", "decode"])


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "::1", "[::1]"])
def test_loopback_needs_no_key(host: str) -> None:
    check_access(Settings(host=host))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.4", "example.org", ""])
def test_other_addresses_need_keys_or_a_word(host: str, file: Path) -> None:
    with pytest.raises(KeyFileError, match=r"omnitok keys add NAME.*OMNITOK_OPEN_ACCESS=true"):
        check_access(Settings(host=host))
    check_access(Settings(host=host, open_access=True))
    with pytest.raises(KeyFileError, match="cannot be read"):
        check_access(Settings(host=host, keys=file))
    write_keys(file, [])
    check_access(Settings(host=host, keys=file))
