"""`python -m benchmarks.host`: all that a GPU host's figures need, in one call with a bound of time.

It makes bundles with random weights, starts `omnitok serve` with the settings that each group of parts needs, and runs
the other benchmarks against it. Rows and `report.md` are written after every step. A second call with the same
`--out` does what is missing.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.host.machine import GENERATORS, cores, split_cpus
from benchmarks.host.runner import Runner
from benchmarks.host.steps import PARTS, Place, steps
from benchmarks.measure import describe_machine
from benchmarks.service.process import API, free_ports
from model.atomic_write import replace_file
from service.settings import Settings


def main(
    parts: Annotated[list[str] | None, typer.Argument(help=f"Of {', '.join(PARTS)}; all by default.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of all results.")] = Path("runs/host"),
    seconds: Annotated[float, typer.Option(help="Within which all ends.")] = 560.0,
    seconds_a_part: Annotated[float, typer.Option(help="Of each load, warm-up and start not counted.")] = 6.0,
    config: Annotated[str, typer.Option(help=f"Geometry: {', '.join(GENERATORS)}.")] = "published",
    gpus: Annotated[int | None, typer.Option(help="To use; all that are found by default.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of the service, such as media_workers=1; repeatable.")
    ] = None,
) -> None:
    """Measure, and print the report; the status is 1 if something is missing."""
    deadline = time.monotonic() + seconds
    if unknown := set(parts or ()) - set(PARTS):
        raise typer.BadParameter(f"{', '.join(sorted(unknown))} must be of {', '.join(PARTS)}.", param_hint="PARTS")
    if config not in GENERATORS:
        raise typer.BadParameter(f"{config!r} must be one of {', '.join(GENERATORS)}.", param_hint="--config")
    settings = dict(_setting(text) for text in set_ or ())
    cpus = split_cpus(os.sched_getaffinity(0), cores())
    ports = free_ports()
    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    found = torch.cuda.device_count() if gpus is None else gpus
    place = Place(out, f"http://127.0.0.1:{ports[API]}", config, found, cpus, seconds_a_part, settings)
    known = tuple(steps(place))
    if lacking := set(parts or ()) - {step.part for step in known}:
        raise typer.BadParameter(f"{', '.join(sorted(lacking))} needs two GPUs, not {found}.", param_hint="PARTS")
    machine = describe_machine()
    options = {"machine": machine, "config": config, "gpus": found, "seconds_a_part": seconds_a_part, "set": settings}
    _check_options(out / "options.json", options)
    heading = (
        f"{machine}\n{found} GPUs; CPUs of the service {sorted(cpus.service)}, of the load "
        f"{sorted(cpus.load)}; {cpus.ingress_replicas} ingress replicas; {config} geometry, random weights; "
        f"settings {settings or 'as they are'}; loads of {seconds_a_part:g} s"
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that services end too
    is_whole = Runner(place, known, ports, deadline, heading).run(parts or PARTS)
    print((out / "report.md").read_text())
    if not is_whole:
        raise typer.Exit(1)


def _check_options(path: Path, options: dict[str, object]) -> None:
    """Refuse a folder whose rows come from another machine or other options: the heading would be wrong for them."""
    if not path.exists():
        replace_file(path, json.dumps(options, indent=1).encode())
    elif (found := json.loads(path.read_text())) != options:
        others = ", ".join(f"{name} {found.get(name)!r}" for name in options if found.get(name) != options[name])
        message = f"{path.parent} holds results with {others}. Choose another folder."
        raise typer.BadParameter(message, param_hint="--out")


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or name not in Settings.model_fields:
        raise typer.BadParameter(f"{text!r} must be a setting of docs/settings.md, as NAME=VALUE.", param_hint="--set")
    return name, value


if __name__ == "__main__":
    typer.run(main)
