"""The commands put together, and the report of their failures."""

from __future__ import annotations

import os
import signal
import sys
from importlib.metadata import version
from types import FrameType
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from service.cli.convert import convert
from service.cli.decode import decode
from service.cli.encode import encode
from service.cli.errors import EXPECTED, sentence
from service.cli.generate import generate
from service.cli.inspect import inspect
from service.cli.jobs import app as jobs
from service.cli.keys import app as keys
from service.cli.models import models
from service.cli.plugins import Commands
from service.cli.reconstruct import reconstruct
from service.cli.serve import serve
from service.cli.tokenize import tokenize

app = typer.Typer(
    name="omnitok",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for command in (serve, encode, decode, reconstruct, generate, tokenize, inspect, models, convert):
    app.command()(command)
app.add_typer(jobs, name="jobs")
app.add_typer(keys, name="keys")


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"omnitok {version('omnitok')}")
        raise typer.Exit


@app.callback()
def omnitok(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Images and videos to tokens or latents, and back, and new ones by class."""


def main() -> None:
    """Run `omnitok`: exit code 0 when done, 1 with one sentence on stderr, 2 for wrong usage, 130 when interrupted."""
    # Before torch is loaded: its threads would spin while they wait, which on a busy host takes most of its time.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _open_closed_streams()
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app()
    except EXPECTED as error:
        _fail(sentence(error))


def _open_closed_streams() -> None:
    """Open standard streams that are closed, or their numbers would be those of the next files and connections.

    So it would be in the processes that are started: they inherit them.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode)  # noqa: SIM115  it stays open
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)


def _fail(text: str) -> NoReturn:
    Console(stderr=True, soft_wrap=True).print(Text.assemble(("error: ", "bold red"), text))
    sys.exit(1)


def _terminate(signum: int, frame: FrameType | None) -> NoReturn:
    """Turn SIGTERM into an exit that unwinds, so that no temporary file stays behind."""
    sys.exit(128 + signum)


if __name__ == "__main__":  # a supervisor would take silence and status 0 for a service that has ended well
    main()
