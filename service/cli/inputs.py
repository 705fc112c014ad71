"""MEDIA of the command line as frames: files of the user's own, so without the service's limits."""

from __future__ import annotations

import mimetypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from media.details import FileDetails
from media.errors import MediaError
from media.frame_choice import choose_frames
from media.frame_reader import FrameReader
from media.identify import HEAD_BYTES, sniff
from media.reader import open_frames
from media.resize import plan
from media.types import MediaOptions, Preprocess, SampleWindow, SourceInfo
from service.cli.errors import CommandError, sentence
from service.errors import ProblemError
from service.formats.media_types import NPY

# The times of more frames than this would outgrow the headers of the files that carry them.
MAX_TIMES = 2048
ARRAY_MAGIC = b"\x93NUMPY"


class ArrayReader(FrameReader):
    """Frames of a `.npy` file, which is read as they are asked for.

    Args:
        file: the open file.
        options: size, sampling; an array has no times, so no window.

    Raises:
        ProblemError: the file holds no pixels, or the options ask for times.
    """

    def __init__(self, file: BinaryIO, options: MediaOptions) -> None:
        if options.start_s is not None or options.end_s is not None:
            raise ProblemError("invalid-options", "An array has no times, so --start-s and --end-s do not apply.")
        try:
            array = np.load(file.name, mmap_mode="r", allow_pickle=False)
        except ValueError as error:
            raise ProblemError("malformed-body", f"This must be a .npy file of plain numbers: {error}.") from error
        if array.dtype != np.uint8 or array.ndim not in (3, 4) or array.shape[-1] != 3 or 0 in array.shape:
            raise ProblemError(
                "invalid-tensor",
                f"The array is {array.dtype} {array.shape}; "
                "pixels are uint8 of shape (H, W, 3) or (T, H, W, 3), none of them 0.",
            )
        self.is_video = array.ndim == 4
        self._pixels = array if self.is_video else array[None]
        self._chosen = choose_frames(range(len(self._pixels)), options, SampleWindow()) if self.is_video else [0]
        height, width = self._pixels.shape[1:3]
        self._plan = plan(height, width, options.size, options.fit, None)
        self.expected = len(self._chosen)

    @property
    def preprocess(self) -> Preprocess:
        return self._plan.preprocess

    def info(self) -> SourceInfo:
        return SourceInfo(NPY, "raw", self._plan.width, self._plan.height, len(self._pixels), None, None, [])

    def details(self) -> FileDetails:
        height, width = self._pixels.shape[1:3]
        return FileDetails("NPY", height, width, "upright", "rgb24")

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        for index in self._chosen:
            yield self._plan.frame(np.array(self._pixels[index]))


@contextmanager
def open_media(path: Path, options: MediaOptions, name: str | None = None) -> Iterator[FrameReader]:
    """Open an image, a video or a `.npy` file for reading frame by frame.

    Args:
        path: the file.
        options: what to read of it.
        name: its name in errors, where that is not its path.

    Raises:
        CommandError: the file cannot be used, and why; iterating raises it too.
        OSError: it cannot be opened.
    """
    try:
        with path.open("rb") as file:
            yield ArrayReader(file, options) if is_array(path) else open_frames(file, None, options)
    except (MediaError, ProblemError) as error:
        raise CommandError(f"{name or path}: {sentence(error)}") from error


def is_array(path: Path) -> bool:
    """Return whether a file is a NumPy array.

    Raises:
        OSError: it cannot be read.
    """
    return _head(path).startswith(ARRAY_MAGIC)


def is_media(path: Path) -> bool:
    """Return whether a file is a picture, a clip or an array, or claims to be one by its name.

    Raises:
        OSError: it cannot be read.
    """
    head = _head(path)
    claim = mimetypes.guess_type(path.name)[0] or ""
    return sniff(head) is not None or head.startswith(ARRAY_MAGIC) or claim.startswith(("image/", "video/"))


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)


def source_of(reader: FrameReader) -> SourceInfo:
    """Describe the file after its last frame was read; the times of very long clips are left out."""
    info = reader.info()
    times = [round(time, 6) for time in info.sampled_pts] if len(info.sampled_pts) <= MAX_TIMES else []
    return replace(info, sampled_pts=times)
