"""`python -m benchmarks.mutation`: put single faults into a copy of the project; list those that no test notices."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from fnmatch import fnmatch
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.mutation.faults import Fault, find_faults, sample
from benchmarks.mutation.runner import TESTS, BaselineError, Row, key_of, read_rows, run

ROOT = Path(__file__).parents[2]


def main() -> None:
    """Check a random sample of faults of each package; a run that was stopped goes on with the same command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("packages", nargs="+", choices=TESTS, help="packages that get faults")
    parser.add_argument("--files", default="*", help="only files that match, such as 'kernels/*/reference.py'")
    parser.add_argument("--count", type=int, default=40, help="faults of each package")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--jobs", type=int, default=1, help="faults checked at once")
    parser.add_argument("--limit", type=float, default=900, help="seconds for the tests of one fault")
    parser.add_argument("--out", type=Path, default=Path("build/mutation.jsonl"), help="file of rows, added to")
    arguments = parser.parse_args()
    sources = {
        str(path.relative_to(ROOT)): path.read_bytes()
        for package in arguments.packages
        for path in sorted((ROOT / package).rglob("*.py"))
    }
    faults = [
        fault
        for package in arguments.packages
        for fault in sample(_faults_of(package, arguments.files, sources), arguments.count, arguments.seed)
    ]
    keys = {key_of(fault, sources[fault.path]): fault for fault in faults}
    rows = [row for row in read_rows(arguments.out) if row.key in keys]
    left = [fault for key, fault in keys.items() if key not in {row.key for row in rows}]
    console = Console()
    with tempfile.TemporaryDirectory(prefix="mutation-") as work:
        try:
            for row in run(ROOT, Path(work), left, arguments.out, arguments.jobs, arguments.limit):
                rows.append(row)
                print(f"{len(rows)}/{len(keys)} {row.outcome} {row.path}:{row.line} {row.test}", flush=True)
        except BaselineError as error:
            sys.exit(f"error: {error}")
    print_tables(console, rows)


def _faults_of(package: str, pattern: str, sources: dict[str, bytes]) -> list[Fault]:
    paths = [path for path in sources if path.startswith(f"{package}/") and fnmatch(path, pattern)]
    return [fault for path in paths for fault in find_faults(path, sources[path])]


def print_tables(console: Console, rows: list[Row]) -> None:
    """Print the faults that no test noticed, and the share of those noticed by package."""
    survivors = Table("place", "fault", "change", title="not noticed")
    for row in sorted(rows, key=lambda row: (row.path, row.line)):
        if row.outcome == "survived":
            survivors.add_row(f"{row.path}:{row.line}", row.kind, escape(row.diff))
    console.print(survivors)
    shares = Table("package", "faults", "noticed", "share", title="noticed")
    total, noticed = Counter[str](), Counter[str]()
    for row in rows:
        for name in (row.path.partition("/")[0], "all"):
            total[name] += 1
            noticed[name] += row.outcome != "survived"
    for name, count in sorted(total.items(), key=lambda item: (item[0] == "all", item[0])):
        shares.add_row(name, str(count), str(noticed[name]), f"{noticed[name] / count:.0%}")
    console.print(shares)


if __name__ == "__main__":
    main()
