"""`omnitok --help` is light, and lists commands and summaries of other packages without importing them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, EntryPoints, version
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


@dataclass(frozen=True)
class Installed:
    """Installed package metadata, as `importlib.metadata` shows it."""

    requires: tuple[str, ...]


METADATA = Installed(
    (
        "typer",
        'numpy>=2; extra == "sums"',
        'no-such-package>=1; extra == "dreams"',
        'no-such-package>=1; extra == "elsewhere" and sys_platform == "no-such-platform"',
    )
)
HERE = {
    "garden": f"{__name__}:garden",
    "kitchen": f"{__name__}:kitchen",
    "study": f"{__name__}:kitchen [sums]",
    "stable": f"{__name__}:kitchen [elsewhere]",
    "cellar": f"{__name__}:no_such_name",
}
NOT_HERE = {
    "attic": ("no_such_top.cli:attic", "the package no_such_top"),
    "cloud": (f"{__name__}:kitchen [dreams]", "no-such-package, not installed here; run pip install -e '.[dreams]'"),
}


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plugins of all kinds: apps, functions, with and without their packages, and one that takes a command's name."""
    targets = HERE | {name: target for name, (target, _) in NOT_HERE.items()} | {"encode": f"{__name__}:kitchen"}
    found = EntryPoints(EntryPoint(name, value, plugins.GROUP) for name, value in targets.items())
    for entry in found:
        vars(entry).update(dist=METADATA)
    monkeypatch.setattr(plugins, "entry_points", lambda **chosen: found.select(**chosen))
    calls.clear()


def test_help_lists_the_commands_that_can_run_here(omnitok: Omnitok, house: None) -> None:
    run = omnitok("--help")
    assert run.code == 0
    listed = re.findall(r"^\W ([a-z]+)  ", run.out, re.MULTILINE)
    assert listed == [
        "serve",
        "encode",
        "decode",
        "reconstruct",
        "generate",
        "tokenize",
        "inspect",
        "models",
        "convert",
        "jobs",
        "keys",
        *sorted(HERE),
    ]


def test_help_has_the_summaries_of_other_packages(omnitok: Omnitok, house: None) -> None:
    out = omnitok("--help").out
    assert re.search(r"garden +The garden\.", out)
    assert re.search(r"kitchen +Cook a dish\.", out)


def test_help_says_how_to_get_the_other_commands(omnitok: Omnitok, house: None) -> None:
    out = omnitok("--help").out
    assert "Not installed here: attic; run pip install -e . in a checkout." in out
    assert "Not installed here: cloud; run pip install -e '.[dreams]' in a checkout." in out


def test_the_command_has_the_version_of_the_package(omnitok: Omnitok) -> None:
    run = omnitok("--version")
    assert (run.code, run.out) == (0, f"omnitok {version('omnitok')}\n")


def test_a_plugin_runs_with_its_own_options(omnitok: Omnitok, house: None) -> None:
    assert omnitok("garden dig --depth 3").code == 0
    assert omnitok("garden plant beans").code == 0
    assert omnitok("kitchen soup").code == 0
    assert omnitok("study sums").code == 0
    assert omnitok("stable oats").code == 0
    assert calls == [3, "beans", "soup", "sums", "oats"]
    assert "Plant." in omnitok("garden --help").out
    assert "Cook a dish." in omnitok("kitchen --help").out
    assert omnitok("kitchen").code == 2


@pytest.mark.parametrize(("name", "words"), [("cellar", "no_such_name"), *((n, w) for n, (_, w) in NOT_HERE.items())])
def test_a_plugin_that_is_not_installed_is_one_sentence(omnitok: Omnitok, house: None, name: str, words: str) -> None:
    run = omnitok(name)
    assert run.code == 1
    assert run.err.count("\n") == 1
    assert f"omnitok {name}" in run.err
    assert words in run.err


def test_no_plugin_replaces_a_command_of_the_service(omnitok: Omnitok, house: None) -> None:
    assert omnitok("encode soup").code == 2
    assert calls == []


@pytest.mark.parametrize(("given", "taken"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_of_networks_sleep_while_they_wait(given: str | None, taken: str) -> None:
    """OpenMP reads its policy when torch is loaded."""
    program = (
        "import os, sys; sys.argv = ['omnitok', '--version']\n"
        "from service.cli import main\n"
        "assert 'torch' not in sys.modules\n"
        "try: main()\n"
        "except SystemExit: print(os.environ['OMP_WAIT_POLICY'])\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {} if given is None else {"OMP_WAIT_POLICY": given}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == taken, done.stderr


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys; sys.argv = ['omnitok', '--help']\n"
        "from service.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'ray', 'av', 'fastapi', 'httpx', 'training'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60, stdout=subprocess.DEVNULL)
