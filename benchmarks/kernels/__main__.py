"""`python -m benchmarks.kernels`: check and time every operator on this GPU, and print one table."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.kernels.accuracy import Check, check, evaluate
from benchmarks.kernels.behaviour import CHECKS
from benchmarks.kernels.operation import Case, Operation
from benchmarks.kernels.registry import OPERATIONS
from benchmarks.kernels.timing import Row, time_case
from benchmarks.measure import Ceilings, describe_machine, measure_ceilings
from model.atomic_write import replace_file


def parts(operation: Operation) -> list[str]:
    """Return the parts of an operator's checks, one process each: "bfloat16", or "bfloat16/0" for one case."""
    numbers = [f"/{number}" for number in range(len(operation.checked))] if operation.slow_to_compile else [""]
    return [*(dtype + number for dtype in operation.dtypes for number in numbers), "behaviour", "warm"]


def run_part(operation: Operation, part: str) -> list[Check]:
    """Run one part of an operator's checks; one that raises has failed.

    The part "warm" only compiles the timed cases into Triton's disk cache.
    """
    jobs: list[tuple[str, Callable[[], Check]]] = []
    if part == "behaviour":
        typical = operation.checked[-1:]
        jobs = [(rule.__name__, partial(rule, operation, case, torch.bfloat16)) for case in typical for rule in CHECKS]
    elif part == "warm":
        jobs = [(f"launch of {case.name}", partial(launch_all, operation, case)) for case in operation.timed]
    else:
        dtype, _, number = part.partition("/")
        cases = operation.checked[int(number) : int(number) + 1] if number else operation.checked
        jobs = [(f"{case.name}, {dtype}", partial(check, operation, case, getattr(torch, dtype))) for case in cases]
    results = []
    for name, job in jobs:
        try:
            results.append(job())
        except Exception as error:
            traceback.print_exc()
            results.append(Check(operation.name, name, [f"{type(error).__name__}: {str(error)[:200]}"]))
    return results


def launch_all(operation: Operation, case: Case) -> Check:
    """Launch every kernel that will be timed on a case."""
    inputs = operation.draw(case, torch.bfloat16, seed=0)
    evaluate(operation.ours, operation, inputs, seed=0)
    torch.cuda.synchronize()
    return Check(operation.name, f"launch of {case.name}")


def check_all(operations: list[Operation], deadline: float) -> list[Check]:
    """Run every check of every operator in parallel processes, since compilation takes most of the time.

    Args:
        operations: the operators.
        deadline: of `time.monotonic`; an unfinished part has failed.
    """
    # the processes already use every core
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        running = []
        for operation in operations:
            for part in parts(operation):
                path = Path(folder) / f"{operation.name}-{part.replace('/', '-')}.json"
                call = [sys.executable, "-m", "benchmarks.kernels", "--part", operation.name, part, "--json", str(path)]
                running.append((operation.name, part, path, subprocess.Popen(call, env=environment)))
        found = []
        for name, part, path, process in running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
                ended = f"its process exited with {process.returncode}"
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                ended = "the deadline passed"
            if path.exists():
                found += [Check(**result) for result in json.loads(path.read_text())["checks"]]
            else:
                found.append(Check(name, part, [ended]))
    return found


def summary(operation: Operation, checks: list[Check]) -> str:
    """Return one line for the checks of an operator and one for each failure."""
    worst: dict[str, float] = {}
    for result in checks:
        for name, value in result.ratios.items():
            kind = name.split(" ", 1)[1]
            worst[kind] = max(worst.get(kind, 0.0), value)
    failed = [result for result in checks if result.failures]
    ratios = ", ".join(f"worst {name} {value:.3g}" for name, value in worst.items())
    lines = [f"{operation.name}: {len(checks) - len(failed)} of {len(checks)} checks pass" + (ratios and f"; {ratios}")]
    lines += [f"  {result.name}: {result.remark}" for result in checks if result.remark]
    lines += [f"  FAILED {result.name}: {'; '.join(result.failures)}" for result in failed]
    return "\n".join(lines)


def print_table(rows: list[Row], ceilings: Ceilings) -> None:
    """Print one line per operator, direction and case: our time, its rate, and the baselines relative to it."""
    titles = ("operator", "direction", "case", "ours us (20-80 %)", "TB/s", "of copy", "others us (times ours)")
    table = Table(*titles, title=f"{ceilings}; * without a CUDA graph", box=None)
    for row in rows:
        others = "; ".join(
            f"{name} {other.median:.1f} ({other.median / row.ours.median:.2f}x)" if other else f"{name} failed"
            for name, other in row.others.items()
        )
        rates = f"{row.rate / 1e12:.2f}", f"{row.rate / ceilings.copy:.0%}"
        table.add_row(row.operation, row.direction, row.case, str(row.ours), *rates, others)
    Console(width=200).print(table)


def main() -> None:
    """Check and time the operators; the exit status is 1 if a check failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="output file of the results")
    names = [operation.name for operation in OPERATIONS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="operators")
    parser.add_argument("--seconds", type=float, default=600.0, help="in all; 60 %% for checks and torch.compile")
    parser.add_argument("--part", nargs=2, metavar=("OPERATOR", "PART"), help="run one part only: bfloat16, behaviour")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("The kernels need a GPU, and this machine has none.")
    if arguments.part:
        name, part = arguments.part
        checks = run_part(next(operation for operation in OPERATIONS if operation.name == name), part)
        if arguments.json:
            _write(arguments.json, checks, {})
    else:
        chosen = [operation for operation in OPERATIONS if operation.name in arguments.only]
        checks = run(chosen, arguments.seconds, arguments.json)
    sys.exit(any(result.failures for result in checks))


def run(operations: list[Operation], seconds: float, path: Path | None) -> list[Check]:
    """Check, then time, and print both.

    Args:
        operations: the operators.
        seconds: in all, see `--seconds`.
        path: output file of the results, those of one operator after those of another, or None.
    """
    start = time.monotonic()
    checks_deadline = start + 0.6 * seconds
    print(describe_machine(), flush=True)
    checks = check_all(operations, checks_deadline)
    for operation in operations:
        print(summary(operation, [result for result in checks if result.operation == operation.name]))
    print(f"checked in {time.monotonic() - start:.0f} s", flush=True)
    ceilings = measure_ceilings()  # after the checks, which share the GPU
    rows: list[Row] = []
    for operation in operations:
        for case in operation.timed:
            if time.monotonic() > start + seconds:
                print(f"skipped {operation.name}, {case.name}: no time is left")
                continue
            try:
                rows += time_case(operation, case, torch.bfloat16, compile_baseline=time.monotonic() < checks_deadline)
            except Exception as error:
                traceback.print_exc()
                checks.append(Check(operation.name, f"timing of {case.name}", [str(error)[:200]]))
            torch.cuda.empty_cache()
        if path is not None:
            times = [row.as_json(ceilings.copy) for row in rows]
            _write(path, checks, {"ceilings": asdict(ceilings), "times": times})
        print(f"{operation.name} timed, {time.monotonic() - start:.0f} s since the start", flush=True)
    print_table(rows, ceilings)
    print(f"{time.monotonic() - start:.0f} s")
    return checks


def _write(path: Path, checks: list[Check], times: dict[str, Any]) -> None:
    checked = {"machine": describe_machine().splitlines(), "checks": [vars(result) for result in checks]}
    replace_file(path, json.dumps(checked | times, indent=1).encode())


if __name__ == "__main__":
    main()
