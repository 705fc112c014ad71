"""docs/api.md agrees with docs/openapi.json and with the table of problems."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from service.api.deadline import HEADER
from service.errors import PROBLEMS
from service.settings import Limits

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/api.md").read_text(encoding="utf-8")
OPENAPI: dict[str, Any] = json.loads((ROOT / "docs/openapi.json").read_text(encoding="utf-8"))
ABOUT_ITSELF = {("GET", "/openapi.json"), ("GET", "/docs"), ("GET", "/")}
TITLES = {"/encode": "Encode", "/decode": "Decode", "/reconstruct": "Reconstruct", "/generate": "Generate"}


def section(title: str) -> str:
    """Return the text under a heading, up to the next of its level."""
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1]


def rows(text: str, head: str) -> list[list[str]]:
    """Return the cells of the table whose first header is `head`."""
    found = re.search(rf"^\| {head} \|.*\n\|[ |-]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert found, head
    return [[cell.strip() for cell in line.strip("|\n").split(" | ")] for line in found[1].splitlines()]


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_every_route_is_there() -> None:
    routes = {tuple(name.split()) for cells in rows(PAGE, "Route") for name in names(cells[0])}
    described = {(method.upper(), path) for path, methods in OPENAPI["paths"].items() for method in methods}
    assert routes == described | ABOUT_ITSELF
    operations = [operation for methods in OPENAPI["paths"].values() for operation in methods.values()]
    assert all(set(operation["responses"]) - {"202", "204"} == {"200", "default"} for operation in operations)


@pytest.mark.parametrize("path", TITLES)
def test_every_parameter_is_there_with_its_default_and_choices(path: str) -> None:
    table = rows(section(TITLES[path]), "parameter")
    described = {item["name"]: item["schema"] for item in OPENAPI["paths"][path]["post"]["parameters"]}
    headers = [item["name"] for item in OPENAPI["paths"][path]["post"]["parameters"] if item["in"] == "header"]
    assert HEADER in headers
    for name in headers:
        assert described.pop(name)
        assert f"`{name}`" in section("Headers")
    assert sorted(name for cells in table for name in names(cells[0])) == sorted(described)
    for first, default, meaning in table:
        for schema in (described[name] for name in names(first) if not meaning.startswith("as for")):
            if "default" in schema:
                assert json.dumps(schema["default"]).strip('"') in names(default)
            assert set(schema.get("enum", ())) <= {*names(default), *names(meaning)}


@pytest.mark.parametrize(("path", "title"), [("/encode", "Encode"), ("/decode", "Decode"), ("/generate", "Generate")])
def test_every_form_of_an_answer_is_there(path: str, title: str) -> None:
    described = OPENAPI["paths"][path]["post"]["responses"]["200"]["content"]
    assert {name for cells in rows(section(title), "`Accept`") for name in names(cells[0])} == set(described)


def test_every_form_of_a_body_is_there() -> None:
    table = rows(section("Encode"), "`Content-Type`")
    named = {name for cells in table for name in names(cells[0])}
    for media_type in OPENAPI["paths"]["/encode"]["post"]["requestBody"]["content"]:
        kind, _, subtype = media_type.partition("/")
        listed = f"{kind}/*" in named and {media_type, subtype} & set(names(table[0][1]))
        assert media_type in named or listed, media_type


def test_every_problem_is_there_with_its_status() -> None:
    table = {names(code)[0]: int(status) for code, status, _ in rows(section("Errors"), "code")}
    assert table == {code: status for code, (status, _) in PROBLEMS.items()}
    refusal = OPENAPI["paths"]["/encode"]["post"]["responses"]["default"]["content"]["application/problem+json"][
        "schema"
    ]
    assert set(refusal["properties"]["code"]["x-extensible-enum"]) == set(table)


def test_limits_that_are_named_exist() -> None:
    limits = set(re.findall(r"`(\w+_(?:bytes|seconds|tokens))`", PAGE))
    assert limits <= {field.name for field in fields(Limits)} | {"request_seconds", "generate_seconds", "job_seconds"}
