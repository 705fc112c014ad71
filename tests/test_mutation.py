"""The faults of the mutation run: each kind changes what it says, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.mutation.faults import Fault, find_faults, sample
from benchmarks.mutation.runner import TESTS, mirrored_tests, near_to_far

ROOT = Path(__file__).parents[1]


def changes(line: str) -> set[tuple[str, str]]:
    """Return (kind, the line with the fault) of every fault of a one-line program."""
    source = line.encode()
    return {(fault.kind, fault.apply(source).decode()) for fault in find_faults("x.py", source)}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("x = a < b", {("comparison", "x = a <= b")}),
        ("x = a is None", {("comparison", "x = a is not None")}),
        ("x = a and b", {("and/or", "x = (a or b)")}),
        ("x = a * b", {("arithmetic", "x = (a / b)")}),
        ("x = 'ü' if a else c", {("negated condition", "x = 'ü' if not (a) else c")}),
        ("x = 3", {("constant", "x = 4")}),
        ("x = 0.5", {("constant", "x = 1.0")}),
        ("x = 0.0", {("constant", "x = 1.0")}),
        ("x = True", {("constant", "x = False")}),
        ("f()", {("dropped statement", "pass")}),
        ("raise E(1)", {("dropped statement", "pass")}),
        ("a.b = c", {("dropped statement", "pass")}),
        ("x += y", {("dropped statement", "pass"), ("arithmetic", "x -= y")}),
        ("x = f(a, b)", {("swapped arguments", "x = f(b, a)")}),
        ("x = min(a, b)", {("function", "x = max(a, b)")}),
        ("x = f(a, c=b)", {("dropped argument", "x = f(a)")}),
    ],
)
def test_a_line_has_these_faults(line: str, expected: set[tuple[str, str]]) -> None:
    assert changes(line) == expected


@pytest.mark.parametrize(
    "line",
    [
        "'''A docstring of 3 words.'''",
        "x: Annotated[int, 3]",
        "x = f'{a + 1}'",
        "x = 'a' + b",
        "x = f(a, a)",
        "x = C(a=b)",
    ],
)
def test_what_does_not_decide_anything_is_left_alone(line: str) -> None:
    assert changes(line) == set()


def test_every_fault_of_the_project_can_be_compiled() -> None:
    for path in sorted((ROOT / "model").rglob("*.py")):
        source = path.read_bytes()
        for fault in sample(find_faults(str(path), source), 20, seed=0):
            compile(fault.apply(source), str(path), "exec")
            assert fault.diff(source)


def test_a_sample_is_fixed_by_its_seed_and_has_one_fault_a_line() -> None:
    faults = [Fault("x.py", line, kind, 0, 0, "") for line in range(20) for kind in "abc"]
    chosen = sample(faults, 10, seed=1)
    assert chosen == sample(faults, 10, seed=1)
    assert chosen != sample(faults, 10, seed=2)
    assert len({fault.line for fault in chosen}) == 10
    assert len(sample(faults, 99, seed=1)) == 20


def test_tests_that_import_the_module_come_first() -> None:
    assert "tests/model/test_metrics.py" in mirrored_tests(ROOT, "model/metrics/psnr.py")
    from_its_package = mirrored_tests(ROOT, "service/sandbox/restrictions.py")
    assert "tests/service/sandbox/test_restrictions.py" in from_its_package
    assert all((ROOT / folder).is_dir() for folders in TESTS.values() for folder in folders)


def test_tests_run_from_near_to_far_and_once() -> None:
    importing, folder, package = near_to_far(ROOT, "service/scheduling/batcher.py")
    assert "tests/service/scheduling/test_batcher.py" in importing
    assert folder == ["tests/service/scheduling", *(f"--ignore={name}" for name in importing)]
    assert package == [
        "tests/service",
        *(f"--ignore={name}" for name in importing),
        "--ignore=tests/service/scheduling",
    ]
