"""`omnitok --help` is light, and commands of other rooms come in without being imported first."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, EntryPoints
from typing import Any

import pytest
import typer

from service.cli import plugins

Omnitok = Callable[..., Any]
calls: list[Any] = []
garden = typer.Typer(help="The garden.")


@garden.command()
def dig(depth: int = 1) -> None:
    """Dig."""
    calls.append(depth)


@garden.command()
def plant(what: str) -> None:
    """Plant."""
    calls.append(what)


def kitchen(dish: str) -> None:
    """Cook a dish."""
    calls.append(dish)


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rooms: an app, a function, and two that are not there."""
    targets = {
        "garden": f"{__name__}:garden",
        "kitchen": f"{__name__}:kitchen",
        "attic": "no_such_package.cli:attic",
        "cellar": f"{__name__}:no_such_name",
        "encode": f"{__name__}:kitchen",
    }
    found = EntryPoints(EntryPoint(name, value, plugins.GROUP) for name, value in targets.items())
    monkeypatch.setattr(plugins, "entry_points", lambda **chosen: found.select(**chosen))
    calls.clear()


def test_help_lists_every_room_and_loads_none(omnitok: Omnitok, house: None) -> None:
    run = omnitok("--help")
    assert run.code == 0
    for name in (
        "serve",
        "encode",
        "decode",
        "reconstruct",
        "models",
        "convert",
        "garden",
        "kitchen",
        "attic",
        "cellar",
    ):
        assert name in run.out


def test_a_room_runs_with_its_own_options(omnitok: Omnitok, house: None) -> None:
    assert omnitok("garden dig --depth 3").code == 0
    assert omnitok("garden plant beans").code == 0
    assert omnitok("kitchen soup").code == 0
    assert calls == [3, "beans", "soup"]
    assert "Plant." in omnitok("garden --help").out
    assert "Cook a dish." in omnitok("kitchen --help").out
    assert omnitok("kitchen").code == 2


@pytest.mark.parametrize("name", ["attic", "cellar"])
def test_a_missing_room_is_one_sentence(omnitok: Omnitok, house: None, name: str) -> None:
    run = omnitok(name)
    assert run.code == 1
    assert run.err.count("\n") == 1
    assert f"omnitok {name}" in run.err


def test_no_room_replaces_a_command_of_the_service(omnitok: Omnitok, house: None) -> None:
    assert omnitok("encode soup").code == 2
    assert calls == []


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys; sys.argv = ['omnitok', '--help']\n"
        "from service.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'ray', 'av', 'fastapi', 'httpx', 'training', 'model'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60, stdout=subprocess.DEVNULL)
