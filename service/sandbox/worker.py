"""The process that touches hostile bytes: one task at a time over a socket, disposable at any moment.

It imports FFmpeg, Pillow and numpy, and neither torch, ray nor fastapi.
"""

from __future__ import annotations

import errno
import importlib
import io
import os
import pkgutil
import socket
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import av
import numpy as np
from PIL import Image

from media.errors import MediaError
from media.frame_reader import FrameReader
from media.identify import IMAGE_OUTPUTS
from media.limits import MIB, MediaLimits
from media.reader import open_frames
from media.types import MediaOptions
from media.video_stream import ClipStream
from media.write import encode_image, encode_video
from service.allocator import keep_freed_blocks
from service.sandbox import restrictions
from service.sandbox.ipc import Channel, ClosedError

# Of pictures of a megapixel; a worker of thousands of files should stay small.
_BLOCK_BYTES, _KEPT_BYTES = 4 * MIB, 16 * MIB

Run = Callable[[Channel, dict[str, Any], MediaLimits], None]


def main(descriptor: int) -> None:
    """Serve tasks until the socket closes.

    Args:
        descriptor: number of the inherited socket; its first message is the set-up.
    """
    channel = Channel(socket.socket(fileno=descriptor))
    setup = channel.receive()
    # The settings themselves would bring pydantic, which costs a worker as much as everything else together.
    limits = MediaLimits(**setup["limits"])
    Image.MAX_IMAGE_PIXELS = limits.image_pixels
    load_codecs()
    keep_freed_blocks(_BLOCK_BYTES, _KEPT_BYTES)
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    av.logging.set_level(None)
    os.nice(setup["niceness"])
    nowhere = os.open(os.devnull, os.O_RDWR)
    channel.send({"kind": "ready", "missing": restrictions.enter(setup["memory"], setup["parent"])})
    os.dup2(nowhere, 2)  # until here a failed start could say why
    os.close(nowhere)
    tasks: dict[str, Run] = {"decode": decode, "encode": encode, "stream": stream}
    while True:
        try:
            task = channel.receive()
        except ClosedError:
            return
        restrictions.allow_cpu(task["seconds"])
        if not answer(channel, limits, task, tasks[task["op"]]):
            return


def load_codecs() -> None:
    """Import what Pillow and PyAV would import on first use: inside the sandbox no file can be opened."""
    Image.init()
    for module in pkgutil.walk_packages(av.__path__, "av."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def answer(
    channel: Channel,
    limits: MediaLimits,
    task: dict[str, Any],
    run: Callable[[Channel, dict[str, Any], MediaLimits], None],
) -> bool:
    """Run a task and send its answer or its problem; whether this process is fit for another one."""
    try:
        run(channel, task, limits)
    except MediaError as problem:
        channel.send({"kind": "problem"} | problem_fields(problem))
    except (MemoryError, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.ENOMEM:
            raise
        # What the failed allocation left behind is anyone's guess.
        channel.send({"kind": "out-of-memory"})
        return False
    return True


def decode(channel: Channel, task: dict[str, Any], limits: MediaLimits) -> None:
    """Answer "begin" with the shape, one "frame" after the other, then "end" with what the file was.

    Where one frame is all that was announced, "picture" is all of these at once.
    """
    data = channel.receive_bytes(task["bytes"])
    started = time.perf_counter()
    limits = _bounded(limits, task["decoded_pixels"])
    reader = open_frames(io.BytesIO(data), limits, _options(task), task["media_type"])
    if reader.expected == 1:
        frames = list(reader)
        if frames:
            channel.send({"kind": "picture", "shape": [1, *frames[0].shape]} | _end(reader, started), frames[0].data)
        else:
            channel.send({"kind": "end"} | _end(reader, started))
        return
    begun = False
    for frame in reader:
        if not begun:
            channel.send({"kind": "begin", "shape": [reader.expected, *frame.shape]})
            begun = True
        channel.send({"kind": "frame"}, frame.data)
    channel.send({"kind": "end"} | _end(reader, started))


@lru_cache(maxsize=8)
def _bounded(limits: MediaLimits, decoded_pixels: int) -> MediaLimits:
    return replace(limits, decoded_pixels=decoded_pixels)


def _end(reader: FrameReader, started: float) -> dict[str, Any]:
    source, preprocess = vars(reader.info()), vars(reader.preprocess)
    seconds = time.perf_counter() - started
    return {"source": source, "preprocess": preprocess, "is_video": reader.is_video, "seconds": seconds}


def stream(channel: Channel, task: dict[str, Any], limits: MediaLimits) -> None:
    """Answer "want" for each further piece of the file, "begin" with what is known, the frames, then "end"."""
    pieces = _Pieces(channel, task["seconds"])
    reader = ClipStream(pieces.read, task["media_type"], _options(task), limits)
    begun = False
    for frame in reader:
        if not begun:
            channel.send({"kind": "begin", "shape": frame.shape} | _description(reader))
            begun = True
        channel.send({"kind": "frame"}, frame.data)
        restrictions.allow_cpu(task["seconds"])
    channel.send({"kind": "end"} | _description(reader))


class _Pieces:
    """A file that comes piece by piece, each when it is asked for."""

    def __init__(self, channel: Channel, seconds: float) -> None:
        self._channel, self._seconds = channel, seconds
        self._piece = memoryview(b"")
        self._ended = False

    def read(self, size: int) -> bytes:
        if not self._piece and not self._ended:
            self._channel.send({"kind": "want"})
            self._piece = memoryview(self._channel.receive_bytes(self._channel.receive()["bytes"]))
            self._ended = not self._piece
            restrictions.allow_cpu(self._seconds)
        taken, self._piece = self._piece[:size], self._piece[size:]
        return bytes(taken)


def _description(reader: ClipStream) -> dict[str, Any]:
    return {"source": vars(reader.info()), "preprocess": vars(reader.preprocess), "fps": reader.kept_fps}


def _options(task: dict[str, Any]) -> MediaOptions:
    options = task["options"]
    if options["size"] is not None:
        options["size"] = tuple(options["size"])
    return MediaOptions(**options)


def encode(channel: Channel, task: dict[str, Any], limits: MediaLimits) -> None:
    """Answer "file" with its size and its bytes."""
    data = channel.receive_bytes(task["bytes"])
    pixels = np.frombuffer(data, np.uint8).reshape(task["shape"])
    try:
        if task["media_type"] in IMAGE_OUTPUTS:
            file = encode_image(pixels, task["media_type"], task["quality"])
        elif task["quality"] is not None:
            raise ValueError(f"A quality is for lossy pictures, not for {task['media_type']}.")
        else:
            file = encode_video(pixels, task["media_type"], task["fps"])
    except ValueError as error:
        raise MediaError("invalid-options", f"The result cannot be written: {error}") from error
    channel.send({"kind": "file", "bytes": len(file)}, file)


def problem_fields(problem: MediaError) -> dict[str, Any]:
    """Return a refusal as plain data for `ProblemError(**fields)`."""
    names = ("code", "detail", "limit", "actual", "errors")
    return {name: getattr(problem, name) for name in names}
