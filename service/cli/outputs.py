"""Files that a command writes: whole or not at all, and pixels part by part."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from media.write import VideoWriter, encode_image
from model.atomic_write import replacing
from service.cli.batch import STANDARD
from service.cli.destination import Target
from service.cli.errors import CommandError
from service.cli.options import ARRAY_SUFFIX, CLIP_SUFFIXES, LOSSY, PICTURE_SUFFIXES

Part = NDArray[np.uint8]  # (n, H, W, 3)


@contextmanager
def output_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a binary file that takes the place of `path` when the block ends well, and vanishes when it does not.

    Args:
        path: the file to write, whose folder is made if need be; or "-", standard output, which gets the whole file.

    Raises:
        OSError: it cannot be written.
    """
    if path == STANDARD:
        with tempfile.TemporaryFile() as file:
            yield file
            file.seek(0)
            shutil.copyfileobj(file, sys.stdout.buffer)
            sys.stdout.buffer.flush()
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as fresh, fresh.open("wb") as opened:
        yield opened


@contextmanager
def writing_pixels(
    target: Target, frames: int, fps: float, quality: int | None = None
) -> Iterator[Callable[[Part], None]]:
    """Yield a function that appends uint8 RGB parts (n, H, W, 3) to a file, which appears whole or not at all.

    Args:
        target: the file and the media type to write, a value of `PIXEL_SUFFIXES`.
        frames: how many frames are expected.
        fps: frames per second of a clip.
        quality: 1 to 100 for JPEG and WebP; None for the default.

    Raises:
        CommandError: a clip is to become a picture, or the rate or the quality does not apply.
    """
    picture, clip = (target.media_type in table.values() for table in (PICTURE_SUFFIXES, CLIP_SUFFIXES))
    if picture and frames != 1:
        others = ", ".join([*CLIP_SUFFIXES, ARRAY_SUFFIX])
        raise CommandError(
            f"{target.path.name} holds one picture, and these are {frames} frames; write one of {others}."
        )
    if quality is not None and target.media_type not in LOSSY:
        raise CommandError(f"A quality is for {' and '.join(LOSSY)}, and {target.path.name} is {target.media_type}.")
    with output_file(target.path) as file:
        sink: _Sink
        if picture:
            sink = _Picture(file, target.media_type, quality)
        elif clip:
            sink = _Clip(file, target.media_type, fps)
        else:
            sink = _Array(file)
        yield sink.write
        sink.close()


class _Sink(Protocol):
    def write(self, part: Part) -> None:
        """Append a part of a clip."""
        ...

    def close(self) -> None:
        """Finish the file."""
        ...


class _Picture:
    def __init__(self, file: BinaryIO, media_type: str, quality: int | None) -> None:
        self._file, self._media_type, self._quality = file, media_type, quality

    def write(self, part: Part) -> None:
        self._file.write(encode_image(part, self._media_type, self._quality))

    def close(self) -> None:
        pass


class _Clip:
    def __init__(self, file: BinaryIO, media_type: str, fps: float) -> None:
        self._file, self._media_type, self._fps = file, media_type, fps
        self._writer: VideoWriter | None = None

    def write(self, part: Part) -> None:
        if self._writer is None:
            try:
                self._writer = VideoWriter(self._file, self._media_type, self._fps, part.shape[1], part.shape[2])
            except ValueError as error:
                raise CommandError(str(error)) from error
        self._writer.write(part)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class _Array:
    """A `.npy` file, whose header is written anew at the end; numpy pads it so that the first axis can grow."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._shape = file, (0, 0, 0, 0)

    def write(self, part: Part) -> None:
        if not self._shape[0]:
            self._head(part.shape)
        self._shape = (self._shape[0] + len(part), *part.shape[1:])
        self._file.write(np.ascontiguousarray(part).tobytes())

    def close(self) -> None:
        self._file.seek(0)
        self._head(self._shape)

    def _head(self, shape: tuple[int, ...]) -> None:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)
