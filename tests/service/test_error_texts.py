"""Errors are full sentences, wherever they are raised."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from media.errors import MediaError
from media.types import MediaOptions
from service.errors import as_text

ROOT = Path(__file__).parents[2]
# The texts of the command follow the name of a file or of a command.
FILES = [
    path
    for name in ("kernels", "media", "model", "service", "training")
    for path in sorted((ROOT / name).rglob("*.py"))
    if "cli" not in path.parts
]
FIELD = re.compile(r"[a-z0-9_.]+(=| must | needs )")  # its name begins the sentence


def texts(tree: ast.AST) -> Iterator[ast.expr]:
    """Find the texts of errors: given in place, or by the name `detail`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in ("ProblemError", "MediaError"):
                yield from node.args[1:2]
            elif node.func.id.endswith("Error"):
                yield from node.args[:1]
        elif isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["detail"]:
            yield node.value


def written(text: ast.expr) -> str | None:
    """Return what is written of a text, with a capital letter for each value; None for a name or a call."""
    if isinstance(text, ast.Constant):
        return str(text.value)
    if not isinstance(text, ast.JoinedStr):
        return None
    return "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in text.values)


def sound(text: str) -> bool:
    begun = text[0].isupper() or text[0] == "`" or FIELD.match(text) is not None
    return begun and text.endswith((".", ": X", ".X"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_errors_are_sentences(path: Path) -> None:
    found = [written(text) for text in texts(ast.parse(path.read_text()))]
    assert [text for text in found if text is not None and not sound(text)] == []


def test_a_refusal_says_each_option_once() -> None:
    with pytest.raises(MediaError) as caught:
        MediaOptions(stride=0, frames=0)
    text = as_text(caught.value.detail, caught.value.errors)
    assert [text.count(f"/{name}: `{name}` ") for name in ("stride", "frames")] == [1, 1]
    assert [text.count(f"`{name}`") for name in ("stride", "frames")] == [1, 1]
