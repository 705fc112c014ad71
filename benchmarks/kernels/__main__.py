"""`python -m benchmarks.kernels`: prove every operator on this GPU, time it, print one table."""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.kernels.accuracy import Check, check
from benchmarks.kernels.behaviour import CHECKS
from benchmarks.kernels.operation import Operation
from benchmarks.kernels.registry import OPERATIONS
from benchmarks.kernels.timing import COPY_RATE, Row, time_case
from benchmarks.measure import describe_machine

DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def prove(operation: Operation) -> list[Check]:
    """Every check of one operator; one that raises has failed."""
    jobs: list[tuple[str, Callable[[], Check]]] = [
        (f"{case.name}, {dtype}", lambda case=case, dtype=dtype: check(operation, case, dtype))
        for dtype in DTYPES
        for case in operation.checked
    ]
    jobs += [
        (behaviour.__name__, lambda behaviour=behaviour: behaviour(operation, operation.checked[-1], torch.bfloat16))
        for behaviour in CHECKS
    ]
    results = []
    for name, job in jobs:
        try:
            results.append(job())
        except Exception as error:
            traceback.print_exc()
            results.append(Check(operation.name, name, [f"{type(error).__name__}: {str(error)[:200]}"]))
    return results


def summary(operation: Operation, checks: list[Check]) -> str:
    """One line for the checks of an operator and one for each that failed."""
    worst: dict[str, float] = {}
    for result in checks:
        for name, value in result.figures.items():
            kind = name.split(" ", 1)[1]
            worst[kind] = max(worst.get(kind, 0.0), value)
    failed = [result for result in checks if result.wrong]
    figures = ", ".join(f"worst {name} {value:.3g}" for name, value in worst.items())
    lines = [
        f"{operation.name}: {len(checks) - len(failed)} of {len(checks)} checks hold" + (figures and f"; {figures}")
    ]
    lines += [f"  {result.name}: {result.remark}" for result in checks if result.remark]
    lines += [f"  FAILED {result.name}: {'; '.join(result.wrong)}" for result in failed]
    return "\n".join(lines)


def print_table(rows: list[Row]) -> None:
    """One line per operator, direction and case: our time, its rate, and how many times ours each other one takes."""
    widths = (20, 19, 28, 24, 7, 7)
    heads = ("operator", "direction", "case", "ours us (20-80 %)", "TB/s", "of 3.0")
    print("".join(head.ljust(width) for head, width in zip(heads, widths, strict=True)) + "others us (times ours)")
    for row in rows:
        cells = (
            row.operation,
            row.direction,
            row.case,
            row.ours,
            f"{row.rate / 1e12:.2f}",
            f"{row.rate / COPY_RATE:.0%}",
        )
        others = "; ".join(
            f"{name} {other.median:.1f} ({other.median / row.ours.median:.2f}x)" if other else f"{name} failed"
            for name, other in row.others.items()
        )
        print("".join(str(cell).ljust(width) for cell, width in zip(cells, widths, strict=True)) + others)


def main() -> None:
    """Prove and time the operators; the exit status is 1 if a check failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="where the figures are written")
    parser.add_argument("--only", nargs="+", choices=[operation.name for operation in OPERATIONS], help="operators")
    parser.add_argument(
        "--seconds", type=float, default=150.0, help="torch.compile baselines are left out past 60 %% of it"
    )
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("the kernels need a GPU, and there is none here")
    start = time.monotonic()
    print(describe_machine())
    chosen = [operation for operation in OPERATIONS if arguments.only is None or operation.name in arguments.only]
    checks: list[Check] = []
    rows: list[Row] = []
    for operation in chosen:
        found = prove(operation)
        checks += found
        print(summary(operation, found), f"[{time.monotonic() - start:.0f} s]", flush=True)
    for operation in chosen:
        for case in operation.timed:
            in_time = time.monotonic() - start < 0.6 * arguments.seconds
            try:
                rows += time_case(operation, case, torch.bfloat16, compile_baseline=in_time)
            except Exception:
                traceback.print_exc()
                checks.append(Check(operation.name, f"timing of {case.name}", ["raised"]))
            torch.cuda.empty_cache()
    print_table(rows)
    print(f"{time.monotonic() - start:.0f} s; * timed without a CUDA graph")
    if arguments.json:
        _write(arguments.json, checks, rows)
    sys.exit(any(result.wrong for result in checks))


def _write(path: Path, checks: list[Check], rows: list[Row]) -> None:
    figures: dict[str, Any] = {
        "machine": describe_machine().splitlines(),
        "checks": [vars(result) for result in checks],
        "times": [row.as_json() for row in rows],
    }
    partial = path.with_name(path.name + ".tmp")
    partial.write_text(json.dumps(figures, indent=1))
    partial.replace(path)


if __name__ == "__main__":
    main()
