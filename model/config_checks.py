"""Checks that the frozen configs of every network share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

MAX_COUNT = 2**20  # of anything that is counted; a config comes from a file that may be broken
MAX_LAYERS = 64
MAX_GRID = 4096  # positions of a latent grid along one of its axes


class ConfigError(ValueError):
    """A configuration that describes no network."""


def strict(cls: type, data: Any) -> dict[str, Any]:
    """Return the arguments of a config class that a mapping holds.

    Raises:
        ConfigError: not a mapping, or unknown keys.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"{cls.__name__} must be a mapping, not {type(data).__name__}.")
    known = {field.name for field in fields(cls)}
    if unknown := sorted(set(data) - known):
        raise ConfigError(f"Unknown {cls.__name__} keys {unknown}; known are {sorted(known)}.")
    return dict(data)


def check_counts(config: Any, names: tuple[str, ...], least: int = 1, most: int = MAX_COUNT) -> None:
    """Refuse attributes that are not integers of a range.

    Args:
        config: any frozen config.
        names: of the attributes.
        least, most: ends of the range, both in it.

    Raises:
        ConfigError: the first such attribute.
    """
    for name in names:
        value = getattr(config, name)
        if type(value) is not int or not least <= value <= most:
            raise ConfigError(f"{name} must be an integer from {least} to {most}, not {value!r}.")


def check_number(config: Any, name: str, least: float, most: float) -> None:
    """Refuse an attribute that is not a number of a range; arguments as for `check_counts`.

    Raises:
        ConfigError: the attribute is not one.
    """
    value = getattr(config, name)
    if type(value) not in (int, float) or not least <= value <= most:
        raise ConfigError(f"{name} must be a number from {least} to {most}, not {value!r}.")


def check_grid(grid: object) -> None:
    """Refuse anything but three counts of latent frames, rows and columns.

    Raises:
        ConfigError: the grid is not one.
    """
    sides = grid if isinstance(grid, tuple) and len(grid) == 3 else ()
    if not sides or not all(type(side) is int and 1 <= side <= MAX_GRID for side in sides):
        raise ConfigError(f"grid must be three integers from 1 to {MAX_GRID} (frames, rows, columns), not {grid!r}.")
