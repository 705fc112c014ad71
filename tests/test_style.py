"""Style laws of CONTRIBUTING.md that no linter knows: openings of docstrings, length of modules, words of pages."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PRODUCT = ("benchmarks", "deploy", "docs", "kernels", "media", "model", "service", "training")
MAX_LINES = 400
OPENING = re.compile(r"(What|How|Whether|Which)\b")
STALE_WORDS = re.compile(r"\b(told|tells?|kin|lies|stands|beside|in turn|is no)\b")
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@pytest.mark.parametrize("package", [*PRODUCT, "tests"])
def test_docstrings_begin_with_a_verb_or_a_noun(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}: {docstring.splitlines()[0]}"
        for path in sorted((ROOT / package).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, DOCUMENTED) and OPENING.match(docstring := ast.get_docstring(node) or "")
    ]
    assert not wrong


def test_modules_stay_short() -> None:
    modules = (path for package in PRODUCT for path in (ROOT / package).rglob("*.py"))
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in modules}
    assert not {name: length for name, length in lengths.items() if length >= MAX_LINES}


def test_files_of_tests_have_names_of_their_own() -> None:
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))  # pytest cannot collect two of a name
    assert [name for name, count in names.items() if count > 1] == []


def test_pages_use_plain_words() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *(ROOT / "docs").rglob("*.md")]
    lines = [(page, line) for page in pages for line in page.read_text(encoding="utf-8").splitlines()]
    found = [f"{page.relative_to(ROOT)}: {line}" for page, line in lines if STALE_WORDS.search(line)]
    assert not [line for line in found if "`" not in line]  # code spans name what was
