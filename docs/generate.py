"""`python docs/generate.py`: write the pages that are made from code, and the diagram; `--check` compares instead."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, cast, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from service.api.app import create_app
from service.sandbox.pool import MediaPool
from service.settings import Limits, Settings
from service.types import Backend

ROOT = Path(__file__).parents[1]
DIAGRAM = ROOT / "docs/images/architecture.dot"

SETTINGS_HEAD = """\
# Settings

Every setting is an environment variable; values are JSON where they are not plain text. `GET /limits` shows the
limits in force. `python docs/generate.py` writes this page from `service/settings.py`.

"""


def settings_page() -> str:
    """Return docs/settings.md: one table of settings, one of limits."""
    own = {name: field for name, field in Settings.model_fields.items() if name != "limits"}
    return "\n".join(
        [
            SETTINGS_HEAD + "## Service",
            "",
            *_table("OMNITOK_", own),
            "",
            "## Limits of one request",
            "",
            *_table("OMNITOK_LIMITS__", Limits.__pydantic_fields__),
            "",
        ]
    )


def openapi_page() -> str:
    """Return docs/openapi.json."""
    app = create_app(cast(Backend, None), MediaPool(Limits(), workers=1), Settings())  # neither is used: nothing runs
    return json.dumps(app.openapi(), indent=2, ensure_ascii=False, sort_keys=True) + "\n"


def diagram() -> str:
    """Return docs/images/architecture.svg, which carries the hash of its source. Needs `dot` of Graphviz.

    Versions of Graphviz draw differently, so a drawing of the present source is kept as it is.
    """
    path = DIAGRAM.with_suffix(".svg")
    mark = f"<!-- drawn from architecture.dot, sha256 {hashlib.sha256(DIAGRAM.read_bytes()).hexdigest()} -->"
    if path.is_file() and mark in (drawn := path.read_text(encoding="utf-8")):
        return drawn
    try:
        svg = subprocess.run(["dot", "-Tsvg", DIAGRAM], check=True, capture_output=True, text=True).stdout
    except FileNotFoundError:
        raise SystemExit(f"{DIAGRAM.name} has changed, and `dot` draws it: install the package graphviz.") from None
    return svg.replace("<svg ", f"{mark}\n<svg ", 1)


PAGES = {
    "docs/settings.md": settings_page,
    "docs/openapi.json": openapi_page,
    "docs/images/architecture.svg": diagram,
}


def _table(prefix: str, fields: dict[str, FieldInfo]) -> list[str]:
    rows = [
        f"| `{prefix}{name.upper()}` | `{_default(field.default)}` | {_range(field)} | {field.description} |"
        for name, field in fields.items()
    ]
    return ["| variable | default | range | meaning |", "| --- | --- | --- | --- |", *rows]


def _default(value: Any) -> str:
    if value is PydanticUndefined or isinstance(value, BaseModel):
        raise ValueError(f"a setting needs a plain default, not {value!r}")
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _range(field: FieldInfo) -> str:
    choices = get_args(field.annotation)
    if choices and all(isinstance(choice, str) for choice in choices):
        return ", ".join(f"`{choice}`" for choice in choices)
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    bounds = [
        f"{sign} {getattr(bound, name)}"
        for bound in field.metadata
        for name, sign in signs.items()
        if hasattr(bound, name)
    ]
    return ", ".join(bounds)


def main(check: bool) -> int:
    """Write the pages, or name those that differ; return the exit code."""
    stale = [name for name, page in PAGES.items() if not _same(ROOT / name, page())]
    if check:
        for name in stale:
            print(f"{name} differs from the code; run `python docs/generate.py`.", file=sys.stderr)
        return 1 if stale else 0
    for name in stale:
        (ROOT / name).write_text(PAGES[name](), encoding="utf-8")
        print(f"wrote {name}")
    return 0


def _same(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
