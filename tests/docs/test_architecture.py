"""docs/architecture.md and its picture name only what exists."""

from __future__ import annotations

import re
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


def test_the_table_of_packages_is_that_of_the_arrows() -> None:
    from tests.test_arrows import MAY_IMPORT

    table = dict(re.findall(r"^\| `(\w+)` \|[^|]*\|([^|]*)\|$", PAGE, re.MULTILINE))
    assert {name: {name, *re.findall(r"`(\w+)`", table[name])} for name in MAY_IMPORT} == MAY_IMPORT
