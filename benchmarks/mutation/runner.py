"""A run of the tests for each fault, in copies of the project, with a row of JSON for each."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue

from benchmarks.mutation.faults import Fault

# Tests of a package outside the folder of its name; the first that fails ends the run.
TESTS = {
    "kernels": ["tests/kernels", "tests/model"],
    "media": ["tests/media", "tests/service/sandbox"],
    "model": ["tests/model", "tests/properties"],
    "training": ["tests/training"],
    "service": ["tests/service"],
}
PYTEST = ("-m", "pytest", "-q", "-x", "--tb=no", "-p", "no:cacheprovider", "--timeout=120")
FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)
NO_TESTS_RAN = 5


@dataclass(frozen=True)
class Row:
    """The outcome of one fault.

    Args:
        key: names the fault and the state of its file.
        path, line, kind, diff: the fault.
        outcome: "caught", "survived", or "late" when the tests ran out of time, which counts as caught.
        test: the first test that failed.
        seconds: how long the tests took.
    """

    key: str
    path: str
    line: int
    kind: str
    diff: str
    outcome: str
    test: str
    seconds: float


class BaselineError(RuntimeError):
    """Tests that fail without a fault."""


def key_of(fault: Fault, source: bytes) -> str:
    """Return a name that changes with the fault and with its file."""
    return hashlib.sha256(repr(fault).encode() + source).hexdigest()[:16]


def read_rows(path: Path) -> list[Row]:
    """Return the rows of earlier runs; a line that a killed run cut short is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(Row(**json.loads(line)))
        except json.JSONDecodeError:
            continue
    return rows


def copy_project(root: Path, target: Path) -> None:
    """Copy the files that git tracks or would track."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root, check=True, capture_output=True, text=True,
    )  # fmt: skip
    for name in filter(None, listing.stdout.split("\0")):
        if (root / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, target / name)


def mirrored_tests(root: Path, path: str) -> list[str]:
    """Return the test files of the package that name the module, those that name least else first."""
    module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    found = {}
    for folder in TESTS[path.partition("/")[0]]:
        for test in sorted((root / folder).rglob("test_*.py")):
            imports = _imports(ast.parse(test.read_bytes()))
            if module in imports:
                found[str(test.relative_to(root))] = len(imports)
    return sorted(found, key=lambda name: found[name])


def _imports(tree: ast.Module) -> set[str]:
    """Return the modules that a file imports, and the names that it takes from them, which may be modules too."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def near_to_far(root: Path, path: str) -> Iterator[list[str]]:
    """Yield arguments of pytest: the tests that import a module, then those of its folder, then its package's."""
    package = path.partition("/")[0]
    importing = mirrored_tests(root, path)
    done = [f"--ignore={name}" for name in importing]
    if importing:
        yield importing
    folder = f"tests/{Path(path).parent}"
    if folder not in TESTS[package] and (root / folder).is_dir():
        yield [folder, *done]
        done = [*done, f"--ignore={folder}"]
    yield [*TESTS[package], *done]


def run_tests(copy: Path, tests: list[str], limit_s: float) -> tuple[str, str]:
    """Return the outcome of these tests in a copy of the project, and the first that failed."""
    environment = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, *PYTEST, *tests]
    with subprocess.Popen(
        command, cwd=copy, env=environment, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        try:
            output, _ = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)  # and what the tests started
            return "late", ""
    if process.returncode in (0, NO_TESTS_RAN):
        return "survived", ""
    named = FAILED.search(output)
    return "caught", named[1] if named else output[-200:]


def check(copy: Path, fault: Fault, limit_s: float) -> Row:
    """Put a fault into a copy, run the tests from near to far, and take it out again."""
    file = copy / fault.path
    source = file.read_bytes()
    began = time.monotonic()
    outcome, test = "survived", ""
    try:
        file.write_bytes(fault.apply(source))
        for tests in near_to_far(copy, fault.path):
            if outcome == "survived":
                outcome, test = run_tests(copy, tests, limit_s)
    finally:
        file.write_bytes(source)
    seconds = round(time.monotonic() - began, 1)
    return Row(key_of(fault, source), fault.path, fault.line, fault.kind, fault.diff(source), outcome, test, seconds)


def run(root: Path, work: Path, faults: Iterable[Fault], out: Path, jobs: int, limit_s: float) -> Iterator[Row]:
    """Check faults in copies of the project and append each row to a file; yield the rows as they come.

    Args:
        root: the project, which is only read.
        work: folder for the copies.
        faults: those to check.
        out: file of rows.
        jobs: copies that run at once.
        limit_s: seconds for the tests of one fault.

    Raises:
        BaselineError: the tests fail without a fault.
    """
    faults = list(faults)
    copies: SimpleQueue[Path] = SimpleQueue()
    for number in range(jobs):
        copy_project(root, work / str(number))
        copies.put(work / str(number))
    for package in sorted({fault.path.partition("/")[0] for fault in faults}):
        outcome, test = run_tests(work / "0", TESTS[package], limit_s)
        if outcome != "survived":
            raise BaselineError(f"The tests of {package} must pass without a fault, but are {outcome} by {test!r}.")

    def one(fault: Fault) -> Row:
        copy = copies.get()
        try:
            return check(copy, fault, limit_s)
        finally:
            copies.put(copy)

    out.parent.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(jobs) as pool, out.open("a") as file:
        for row in pool.map(one, faults):
            file.write(json.dumps(asdict(row)) + "\n")
            file.flush()
            yield row
