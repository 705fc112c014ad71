"""`omnitok keys`: keys of the service's callers, in a file that holds their digests."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from service.cli.tables import print_table
from service.keys import SCOPES, KeyFileError, new_key, read_keys, write_keys

DEFAULT_FILE = Path("keys.json")

app = typer.Typer(help="Make, list and revoke keys of callers.", no_args_is_help=True)
FileOption = Annotated[Path, typer.Option("--file", "-f", envvar="OMNITOK_KEYS", help="File of the keys.")]


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="Name of the caller: letters, digits, `.`, `_` and `-`.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(
            "--scope",
            "-s",
            help=f"Routes that it opens: {', '.join(SCOPES)} (all); repeat for more.",
            show_default="all but admin",
        ),
    ] = None,
    budget: Annotated[
        int | None, typer.Option("--budget", min=1, help="Latent positions a minute.", show_default="any number")
    ] = None,
    file: FileOption = DEFAULT_FILE,
) -> None:
    """Make a key and print it once; the file keeps its digest alone. A running service knows it within a second."""
    keys = read_keys(file) if file.exists() else ()
    if any(key.name == name for key in keys):
        raise KeyFileError(f"{file} has a key of {name} already. Remove it first, or choose another name.")
    if wrong := set(scope or ()) - set(SCOPES):
        raise typer.BadParameter(
            f"{', '.join(sorted(wrong))} must be one of {', '.join(SCOPES)}.", param_hint="--scope"
        )
    try:
        secret, key = new_key(name, scope or ["encode", "decode", "generate"], budget)
    except ValueError as error:
        raise typer.BadParameter("It must be 1 to 64 letters, digits, `.`, `_` or `-`.", param_hint="NAME") from error
    write_keys(file, [*keys, key])
    Console(stderr=True, soft_wrap=True, highlight=False).print(
        f"{name} may {', '.join(key.scopes)}. This key is shown once; the service reads OMNITOK_KEYS={file.resolve()}."
    )
    print(secret)


@app.command("list")
def list_keys(file: FileOption = DEFAULT_FILE) -> None:
    """List the callers, their scopes and budgets."""
    rows = ((key.name, ", ".join(key.scopes), str(key.positions_per_minute or "any")) for key in read_keys(file))
    print_table(("name", "scopes", "positions a minute"), rows)


@app.command()
def remove(name: Annotated[str, typer.Argument(help="Name of the caller.")], file: FileOption = DEFAULT_FILE) -> None:
    """Revoke the key of a caller; a running service refuses it within a second."""
    keys = read_keys(file)
    left = [key for key in keys if key.name != name]
    if len(left) == len(keys):
        raise KeyFileError(f"{file} has no key of {name}. It has {', '.join(key.name for key in keys) or 'none'}.")
    write_keys(file, left)
