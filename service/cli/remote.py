"""Tokenizers of a service, as the commands see them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from pydantic import BaseModel

from media.frame_reader import FrameReader
from service.cli.batch import InputFile
from service.cli.destination import Target
from service.cli.errors import CommandError, StopError
from service.cli.inputs import is_array, open_media
from service.cli.outputs import Part, output_file
from service.cli.tokenizers import Choose
from service.client import Client, ServiceError
from service.formats.result import EncodeResult
from service.operations.options import DecodeOptions, EncodeOptions

# Of the caller or of the model.
REFUSED_FOR_EVERY_FILE = frozenset({"unauthorized", "forbidden", "unknown-model"})


class ServiceTokenizer:
    """The tokenizers of a service.

    Args:
        client: a connection to it.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    def encode(self, source: InputFile, options: EncodeOptions) -> EncodeResult:
        with failures():
            if not is_array(source.path):
                return self._client.encode(source.path, **query(options))
            with open_media(source.path, options.media(), source.name) as reader:
                pixels = np.stack(list(reader))
            # An array is encoded as it is, so that the options of media were for the reader.
            chosen: Any = options.model_dump(include={"model", "output"}, exclude_none=True)
            return self._client.encode(pixels, **chosen)

    def decode(self, source: InputFile, result: EncodeResult, options: DecodeOptions, choose: Choose) -> Target:
        target = choose(options.frames or (result.meta.size.frames if result.meta.size else result.grid[0]))
        with failures():
            data = self._client.decode(result, accept=target.media_type, **query(options))
        with output_file(target.path) as file:
            file.write(data)
        return target

    def reconstruct(self, reader: FrameReader, model: str | None) -> Iterator[tuple[Part, Part]]:
        pixels = np.stack(list(reader))
        chosen: Any = {} if model is None else {"model": model}
        with failures():
            yield pixels, self._client.reconstruct(pixels, **chosen)


@contextmanager
def failures() -> Iterator[None]:
    """Turn failures of calls into the command's.

    Raises:
        CommandError: the service refused, failed, or could not be reached; `StopError` where it would do so again.
    """
    try:
        yield
    except ServiceError as error:
        is_final = error.status is None or error.code in REFUSED_FOR_EVERY_FILE
        raise (StopError if is_final else CommandError)(str(error)) from error


def query(options: BaseModel) -> Any:
    """Return the options that were given, in the form of a call."""
    given = options.model_dump(exclude_unset=True)
    if size := given.get("size"):
        given["size"] = f"{size[0]}x{size[1]}"
    return given
