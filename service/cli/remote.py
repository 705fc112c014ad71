"""The command's side of working through a service."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from media.frame_reader import FrameReader
from media.types import MediaOptions
from service.cli.errors import CommandError
from service.cli.inputs import open_media
from service.cli.outputs import Part
from service.client import Client, ServiceError


@contextmanager
def client(server: str) -> Iterator[Client]:
    """A client whose failures are told as the command's.

    Raises:
        CommandError: the service refused, failed, or could not be reached.
    """
    try:
        with Client(server) as connection:
            yield connection
    except ServiceError as error:
        raise CommandError(str(error)) from error


def query(chosen: dict[str, Any], options: MediaOptions | None) -> Any:
    """Options of a call, without those that are at their defaults.

    Args:
        chosen: values by name; None means not chosen.
        options: how media becomes pixels; None for arrays, which are sent as they shall be encoded.
    """
    given = {name: value for name, value in chosen.items() if value is not None}
    if options is None:
        return given
    for field in fields(options):
        value = getattr(options, field.name)
        if field.default is MISSING or value != field.default:
            given[field.name] = f"{value[0]}x{value[1]}" if field.name == "size" else value
    return given


def read_array(path: Path, options: MediaOptions) -> NDArray[np.uint8]:
    """The pixels of a file as they shall be encoded: uint8 (T, H, W, 3)."""
    with open_media(path, options) as reader:
        return np.stack(list(reader))


@contextmanager
def reconstructing(server: str, model: str | None) -> Iterator[Callable[[FrameReader], Iterator[tuple[Part, Part]]]]:
    """The service's `/reconstruct`, as frames to pairs of original and reconstruction."""
    with client(server) as connection:

        def work(reader: FrameReader) -> Iterator[tuple[Part, Part]]:
            pixels = np.stack(list(reader))
            yield pixels, connection.reconstruct(pixels, **query({"model": model}, None))

        yield work
