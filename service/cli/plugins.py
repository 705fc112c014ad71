"""Commands of other packages, found by the entry-point group `omnitok.commands` and imported when they are called."""

from __future__ import annotations

import ast
from collections.abc import Callable
from importlib.metadata import EntryPoint, PackageNotFoundError, distribution, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer
from packaging.requirements import Requirement
from pydantic import ValidationError
from rich.markup import escape
from typer.core import TyperCommand, TyperGroup

from service.cli.errors import CommandError
from service.cli.options import with_value
from service.formats.validation import sentence

GROUP = "omnitok.commands"


class PluginCommand(TyperCommand):
    """A placeholder in `omnitok --help`, which becomes the other package's command when it is called."""

    def __init__(self, entry: EntryPoint) -> None:
        super().__init__(name=entry.name, help=_summary(entry))
        self._entry = entry

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Return the context of the command that the entry point names."""
        if missing := _missing(self._entry):
            needs, remedy = ", ".join(missing), _remedy(self._entry)
            raise CommandError(f"`omnitok {self.name}` needs {needs}, not installed here; run {remedy} in a checkout.")
        try:
            target = self._entry.load()
        except (ImportError, AttributeError) as error:
            raise CommandError(f"`omnitok {self.name}` is not installed completely: {error}") from error
        return _command(target).make_context(info_name, args, parent=parent, **extra)


class Commands(TyperGroup):
    """The service's own commands, followed by those of other packages."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command; what its options must be is said as the service says it."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            if isinstance(error.__cause__, ValidationError):
                error.message = _refusal(error.__cause__.errors()[0], error.param)
            raise

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands that can run here, in the order of the help text."""
        names = {entry.name for entry in entry_points(group=GROUP) if not _missing(entry)}
        return [*super().list_commands(ctx), *sorted(names - set(self.commands))]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help text, and at its end how to get the commands that cannot run here."""
        absent: dict[str, list[str]] = {}
        for entry in sorted(entry_points(group=GROUP)):
            if entry.name not in self.commands and _missing(entry):
                absent.setdefault(_remedy(entry), []).append(entry.name)
        lines = (
            f"Not installed here: {', '.join(names)}; run {remedy} in a checkout." for remedy, names in absent.items()
        )
        self.epilog = "\n\n".join(map(escape, lines))
        super().format_help(ctx, formatter)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the command of that name, or None."""
        if own := super().get_command(ctx, cmd_name):
            return own
        for entry in entry_points(group=GROUP, name=cmd_name):
            return PluginCommand(entry)
        return None


def _refusal(item: Any, option: Any) -> str:
    """Return what an option must be, with all of its range, and what was given."""
    least, most = getattr(option, "min", None), getattr(option, "max", None)
    within = item["type"] in ("greater_than_equal", "less_than_equal") and least is not None and most is not None
    return with_value(f"It must be {least} to {most}." if within else sentence(item), item["input"])


def _summary(entry: EntryPoint) -> str:
    """Return the first line of a command's own help, from its source: importing it may load torch."""
    package, *parts = entry.module.split(".")
    spec = find_spec(package)
    file = Path(spec.origin or "") if spec is not None else Path()
    if parts:
        file = file.parent.joinpath(*parts).with_suffix(".py")
    for node in ast.parse(file.read_text(encoding="utf-8")).body if file.is_file() else ():
        match node:
            case ast.FunctionDef(name=entry.attr):
                return (ast.get_docstring(node) or "").partition("\n")[0]
            case ast.Assign(targets=[ast.Name(id=entry.attr)], value=ast.Call(keywords=keywords)):
                return next((str(ast.literal_eval(word.value)) for word in keywords if word.arg == "help"), "")
    return ""


def _missing(entry: EntryPoint) -> list[str]:
    """Return the package of the command, or the packages of its extras, if they are not installed."""
    package = entry.module.partition(".")[0]  # its submodules cannot be looked up without importing it
    if find_spec(package) is None:
        return [f"the package {package}"]
    lines = (entry.dist.requires if entry.dist else None) or []
    optional = [wanted for wanted in map(Requirement, lines) if not _applies(wanted, "")]
    chosen = {wanted.name for wanted in optional if any(_applies(wanted, extra) for extra in entry.extras)}
    return sorted(name for name in chosen if not _installed(name))


def _remedy(entry: EntryPoint) -> str:
    """Return the command that installs what another package's command needs."""
    return f"pip install -e '.[{','.join(entry.extras)}]'" if entry.extras else "pip install -e ."


def _applies(wanted: Requirement, extra: str) -> bool:
    return wanted.marker is None or wanted.marker.evaluate({"extra": extra})


def _installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def _command(target: typer.Typer | Callable[..., Any]) -> Any:
    if isinstance(target, typer.Typer):
        return typer.main.get_command(target)
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(target)
    return typer.main.get_command(app)
