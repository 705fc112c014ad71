"""Pages name only files, modules, functions and sections that exist."""

from __future__ import annotations

import ast
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOP = ("benchmarks", "bundles", "deploy", "docs", "kernels", "media", "model", "service", "tests", "training")
PAGES = [
    *ROOT.glob("*.md"),
    *(path for folder in ("bundles", "deploy", "docs") for path in (ROOT / folder).rglob("*.md")),
]
HISTORY = {"CHANGELOG.md"}  # it names what was
LINK = re.compile(r"\]\(([^)\s]+)\)")
PATH = re.compile(rf"(?:{'|'.join(TOP)})/[\w./-]*[\w]|[\w.-]+\.md")
FENCE = re.compile(r"```.*?```", re.DOTALL)
CODE = re.compile(r"`([^`\n]+)`")


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@cache
def anchors(page: Path) -> frozenset[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return frozenset(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings)


@cache
def ignored(path: str) -> bool:
    """Return whether git ignores the path: such files are made by a command of the page."""
    return subprocess.run(["git", "check-ignore", "-q", path], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    dead = []
    for target in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        found = (page.parent / path).resolve() if path else page
        if not found.exists() or (anchor and anchor not in anchors(found)):
            dead.append(target)
    assert not dead


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in HISTORY], ids=name)
def test_files_in_code_spans_exist(page: Path) -> None:
    spans = CODE.findall(FENCE.sub("", page.read_text(encoding="utf-8")))
    paths = [span.rstrip("/") for span in spans if PATH.fullmatch(span.rstrip("/"))]
    dead = [path for path in paths if not (ROOT / path).exists() and not (page.parent / path).exists()]
    assert not [path for path in dead if not ignored(path)]


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in HISTORY], ids=name)
def test_modules_that_pages_run_or_name_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = re.findall(rf"`((?:{'|'.join(TOP)})(?:\.[a-z]\w*)+)`", text)  # functions and settings are of another case
    run = [module for module in re.findall(r"python -m ([\w.]+\w)", text) if module.split(".")[0] in TOP]
    files = {"json", "safetensors", "npy", "npz"}
    dead = {
        module
        for module in {*named, *run}
        if not (base := ROOT / module.replace(".", "/")).is_dir() and not base.with_suffix(".py").is_file()
    }
    assert not {module for module in dead if module.rpartition(".")[2] not in files}


def test_the_model_page_names_what_the_modules_define() -> None:
    rows = re.findall(r"^\|[^|]+\| (.+) \|$", (ROOT / "docs/model.md").read_text(encoding="utf-8"), re.MULTILINE)
    pairs = [pair for row in rows for pair in re.findall(r"`([\w/]+\.py)`: ((?:`\w+`(?:, )?)+)", row)]
    assert len(pairs) > 30
    for module, names in pairs:
        tree = ast.parse((ROOT / module).read_text(encoding="utf-8"))
        defined = {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
        defined |= {
            target.id
            for node in tree.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        assert set(re.findall(r"\w+", names)) <= defined, module
