"""Commands of other rooms, found by the entry-point group `omnitok.commands` and imported only when called."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from service.cli.errors import CommandError

GROUP = "omnitok.commands"


class RoomCommand(TyperCommand):
    """Stands for another room's command in `omnitok --help`, and becomes that command when it is called."""

    def __init__(self, entry: EntryPoint) -> None:
        super().__init__(name=entry.name, help=f"Run `omnitok {entry.name} --help` for its commands and options.")
        self._entry = entry

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """The context of the command that the entry point names."""
        try:
            target = self._entry.load()
        except (ImportError, AttributeError) as error:
            raise CommandError(f"`omnitok {self.name}` is not installed completely: {error}") from error
        return _command(target).make_context(info_name, args, parent=parent, **extra)


class Commands(TyperGroup):
    """The service's own commands, followed by those of other rooms."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names in the order of the help text."""
        return [*super().list_commands(ctx), *sorted(entry_points(group=GROUP).names - set(self.commands))]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name, or None."""
        if own := super().get_command(ctx, cmd_name):
            return own
        for entry in entry_points(group=GROUP, name=cmd_name):
            return RoomCommand(entry)
        return None


def _command(target: typer.Typer | Callable[..., Any]) -> Any:
    if isinstance(target, typer.Typer):
        return typer.main.get_command(target)
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(target)
    return typer.main.get_command(app)
