"""docs/architecture.md and its picture name only what exists, and the walk visits each module once."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")


def test_the_picture_shows_packages_modules_and_containers() -> None:
    source = (ROOT / "docs/images/architecture.dot").read_text(encoding="utf-8")
    nodes = set(re.findall(r'^\s*"([\w/]+)" \[label', source, re.MULTILINE))
    containers = set(yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"])
    assert len(nodes) > 10
    for node in nodes - containers:
        assert (ROOT / node).is_dir() or (ROOT / f"{node}.py").is_file(), node
    edges = set(re.findall(r'"([\w/]+)"(?= ->)|(?<=-> )"([\w/]+)"', source))
    assert {start or end for start, end in edges} <= nodes


def visits() -> Counter[str]:
    """Return how often the walk names each module."""
    walk = PAGE.split("## A walk through one encode request")[1].split("\n## ")[0]
    return Counter(re.findall(r"`([\w/]+\.py)`", walk))


def test_the_walk_visits_each_module_once() -> None:
    walk = visits()
    assert len(walk) > 30
    assert set(walk.values()) == {1}
    for module in walk:
        assert (ROOT / module).is_file(), module


def test_the_walk_is_the_way_of_a_request() -> None:
    command = [sys.executable, str(ROOT / "tests/docs/trace_encode.py")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    ran = {line for line in done.stdout.splitlines() if line.startswith(("service/", "media/"))}
    assert len(ran) > 20
    assert ran <= set(visits())


def test_the_table_of_packages_is_that_of_the_arrows() -> None:
    from tests.test_arrows import MAY_IMPORT

    table = dict(re.findall(r"^\| `(\w+)` \|[^|]*\|([^|]*)\|$", PAGE, re.MULTILINE))
    assert {name: {name, *re.findall(r"`(\w+)`", table[name])} for name in MAY_IMPORT} == MAY_IMPORT
