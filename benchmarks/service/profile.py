"""`python -m benchmarks.service.profile`: functions that take the CPU time of a tokenizer and an ingress replica.

It needs py-spy and the right to trace other processes. The stacks stay next to the rows, for a flame graph.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.rows import Row, RowFile
from benchmarks.service.cpu import find_service, snapshot
from benchmarks.service.load import Load, run_load

REPLICAS = ("Tokenizer", "Ingress")
SAMPLES_PER_SECOND = 200
SHOWN = 15  # functions of a process
WAITING = "Worker.main_loop"  # of Ray, in C++ that seems busy
START_SECONDS = 3.0  # of py-spy, which reads the symbols of all libraries


def main(
    url: Annotated[str, typer.Option(help="Of the service.")] = "http://127.0.0.1:8000",
    mix: Annotated[str, typer.Option(help="As for `benchmarks.service`.")] = "img256",
    connections: Annotated[int, typer.Option(help="Requests always in flight.")] = 128,
    processes: Annotated[int, typer.Option(help="Of the load generator.")] = 1,
    seconds: Annotated[float, typer.Option(help="Of the profile.")] = 6.0,
    out: Annotated[Path, typer.Option(help="Folder of rows and stacks.")] = Path("runs/profile"),
) -> None:
    """Load a running service, and print the functions of one replica of each tier by their own time."""
    spy = shutil.which("py-spy") or shutil.which("py-spy", path=str(Path(sys.executable).parent))
    if spy is None:
        raise typer.BadParameter("py-spy is missing. Run pip install py-spy.")
    out.mkdir(parents=True, exist_ok=True)
    load = Load(url, mix, None, connections, seconds, warm_up=START_SECONDS, processes=processes)
    victims = {one.name: pid for pid, one in snapshot(find_service(load.address[1])).items() if one.name in REPLICAS}
    command = [spy, "record", "--nonblocking", "--function", "--format", "raw", f"--rate={SAMPLES_PER_SECOND}"]
    command += [f"--duration={max(1, round(seconds))}"]
    spies = [
        subprocess.Popen([*command, "--pid", str(pid), "--output", str(out / f"{name}.stacks")])
        for name, pid in victims.items()
    ]
    run_load(load)
    failed = [name for name, process in zip(victims, spies, strict=True) if process.wait() != 0]
    table = RowFile(out / "rows.json")
    for name in victims:
        if name not in failed:
            for row in functions(name, (out / f"{name}.stacks").read_text()):
                table.add(row)
    if failed or not victims:
        raise SystemExit(f"py-spy recorded nothing of {', '.join(failed) or 'the service, which was not found'}.")


def functions(process: str, stacks: str) -> Iterator[Row]:
    """Yield the functions that took the most time themselves, callees left out.

    Args:
        process: name of it.
        stacks: lines `outermost;...;innermost COUNT`.
    """
    own: Counter[str] = Counter()
    for line in stacks.splitlines():
        stack, _, count = line.rpartition(" ")
        function = stack.rpartition(";")[2] or "native code"
        if not function.startswith(WAITING):
            own[function] += int(count)
    for function, samples in own.most_common(SHOWN):
        yield {"process": process, "function": f"`{function}`", "own time": f"{samples / own.total():.1%}"}


if __name__ == "__main__":
    typer.run(main)
