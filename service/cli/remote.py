"""Tokenizers of a service, as the commands see them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from pydantic import BaseModel

from media.frame_reader import FrameReader
from media.types import DEFAULT_FPS
from service.cli.batch import InputFile
from service.cli.destination import Choose, Target
from service.cli.errors import CommandError, StopError
from service.cli.inputs import is_array, open_media
from service.cli.outputs import Part, output_file, writing_pixels
from service.cli.progress import tracked
from service.client import Client, ServiceError
from service.formats.result import EncodeMeta, EncodeResult
from service.operations.bundles import find_card
from service.operations.options import DecodeOptions, EncodeOptions

# Of what is too much for one request, and perhaps not for a stream.
STREAM_INSTEAD = frozenset(
    {"body-too-large", "too-long", "too-many-frames", "too-many-tokens", "too-many-pixels", "decode-budget"}
)
NOT_STREAMED = frozenset({"invalid-options", "unsupported-media-type", "unsupported-container"})
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
                return self._encode_file(source, options)
            with open_media(source.path, options.media(), source.name) as reader:
                pixels = np.stack(list(reader))
            # An array is encoded as it is, so that the options of media were for the reader.
            chosen: Any = options.model_dump(include={"model", "output"}, exclude_none=True)
            return self._client.encode(pixels, **chosen)

    def decode(self, source: InputFile, result: EncodeResult, options: DecodeOptions, choose: Choose) -> Target:
        frames = options.frames or (result.meta.size.frames if result.meta.size else result.grid[0])
        target = choose(frames)
        with failures():
            try:
                data = self._client.decode(result, accept=target.media_type, **query(options))
            except ServiceError as error:
                if error.code not in STREAM_INSTEAD:
                    raise
                self._decode_stream(source, result, options, target, frames)
                return target
        with output_file(target.path) as file:
            file.write(data)
        return target

    def reconstruct(self, reader: FrameReader, model: str | None) -> Iterator[tuple[Part, Part]]:
        pixels = np.stack(list(reader))
        chosen: Any = {} if model is None else {"model": model}
        with failures():
            yield pixels, self._client.reconstruct(pixels, **chosen)

    def _encode_file(self, source: InputFile, options: EncodeOptions) -> EncodeResult:
        """Encode a file as a whole, or while it is sent if it is too long for that."""
        too_large = ServiceError("The file is larger than a whole video may be.")
        try:
            if source.path.stat().st_size <= self._client.limits()["video_bytes"]:
                return self._client.encode(source.path, **query(options))
        except ServiceError as error:
            if error.code not in STREAM_INSTEAD:
                raise
            too_large = error
        try:
            frames = find_card(self._client.models(), options.model).temporal_patch
            stream = self._client.encode_stream(source.path, **query(options))
            parts = tracked(stream, f"encoding {source.name}", None, lambda part: frames * len(part))
            codes = np.concatenate(list(parts))
        except ServiceError as error:
            if error.code in NOT_STREAMED and too_large.code is not None:
                raise too_large from error
            raise
        assert stream.end is not None
        meta = stream.end.meta or EncodeMeta()
        return EncodeResult(meta, codes, None) if codes.ndim == 3 else EncodeResult(meta, None, codes)

    def _decode_stream(
        self, source: InputFile, result: EncodeResult, options: DecodeOptions, target: Target, frames: int
    ) -> None:
        chosen = query(options)
        chosen.pop("quality", None)
        fps = options.fps or result.meta.fps or DEFAULT_FPS
        stream = self._client.decode_stream(result, **chosen)
        with writing_pixels(target, frames, fps, options.quality) as write:
            for part in tracked(stream, f"decoding {source.name}", frames, len):
                write(part)


@contextmanager
def connected(server: str, api_key: str | None) -> Iterator[Client]:
    """Yield a client of a service that answers.

    It is asked once, without retries: those of later calls are for a service that has answered and is being replaced.

    Raises:
        CommandError: nothing answers, or what answers is not a service.
    """
    with failures(), Client(server, api_key=api_key, retries=0) as once:
        try:
            once.limits()
        except ServiceError as error:
            if error.status is None:
                raise
        except ValueError as error:
            raise CommandError(f"{server} is not a service of omnitok: {server}/limits is not JSON.") from error
    with Client(server, api_key=api_key) as client:
        yield client


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
