"""Pixels to files, part by part: pictures, clips and `.npy` arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from media.write import VideoWriter, encode_image
from service.cli.atomic_write import replacing
from service.cli.errors import CommandError
from service.cli.options import ARRAY_SUFFIX, CLIP_SUFFIXES, PICTURE_SUFFIXES

Part = NDArray[np.uint8]  # (n, H, W, 3)


@contextmanager
def writing_pixels(path: Path, frames: int, fps: float) -> Iterator[Callable[[Part], None]]:
    """A function that appends uint8 RGB parts (n, H, W, 3) to a file, which appears whole or not at all.

    Args:
        path: its suffix, one of `PIXEL_SUFFIXES`, says what to write.
        frames: how many frames are expected.
        fps: frames per second of a clip.

    Raises:
        CommandError: a clip is to become a picture, or the rate is out of range.
    """
    suffix = path.suffix.lower()
    if suffix in PICTURE_SUFFIXES and frames != 1:
        others = ", ".join([*CLIP_SUFFIXES, ARRAY_SUFFIX])
        raise CommandError(f"{path.name} holds one picture, and these are {frames} frames; write one of {others}")
    with replacing(path) as file:
        sink: _Sink
        if suffix in PICTURE_SUFFIXES:
            sink = _Picture(file, PICTURE_SUFFIXES[suffix])
        elif suffix in CLIP_SUFFIXES:
            sink = _Clip(file, CLIP_SUFFIXES[suffix], fps)
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
    def __init__(self, file: BinaryIO, media_type: str) -> None:
        self._file, self._media_type = file, media_type

    def write(self, part: Part) -> None:
        self._file.write(encode_image(part, self._media_type))

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
    """A `.npy` file, whose header is written anew at the end; numpy leaves room for the first axis to grow."""

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
