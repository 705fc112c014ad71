"""Items to pixels: the bytes of an item, their hash, and the views that the options ask for. Runs in the processes."""

from __future__ import annotations

import hashlib
import io
import math
import os
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from media.errors import MediaError
from media.frame_reader import FrameReader
from media.images import StillReader
from media.kinds import Kind
from media.reader import open_frames
from media.resize import Resampling
from media.types import MediaOptions, Preprocess, SampleWindow
from model.codes.info import EncodingOptions
from service.bulk.sources import PARQUET_ROW, WHOLE_FILE, Item, bytes_column

JPEG_ENLARGEMENT = 16  # pixels of a JPEG to those that are encoded; what is larger is decoded at a fraction, or rare
HASH_WORDS = 4  # 32-bit words of a content's hash that seed its views


class View(NamedTuple):
    """One crop of an item.

    Args:
        pixels: uint8 RGB (T, H, W, 3).
        preprocess: steps from the file's frame to the pixels that are encoded.
        resampling: to these, where it is left to the device.
        jpeg: (height, width) where decoding is left to the device too: `pixels` are then the bytes (n) of a JPEG.
    """

    pixels: NDArray[np.uint8]
    preprocess: dict[str, Any]
    resampling: Resampling | None = None
    jpeg: tuple[int, int] | None = None


def read_bytes(item: Item) -> bytes:
    """Return the bytes of an item.

    Raises:
        OSError: its file is gone or cannot be read.
        MediaError: it is empty, or its tar ends before it.
    """
    if item.start <= PARQUET_ROW:
        data = _parquet_row(item.file, PARQUET_ROW - item.start)
    elif item.start == WHOLE_FILE:
        with open(item.file, "rb", buffering=0) as file:
            data = file.read()
    else:
        with open(item.file, "rb", buffering=0) as file:
            data = os.pread(file.fileno(), item.size, item.start)
        if len(data) < item.size:
            raise MediaError("corrupt-media", "The tar shard ends inside this item.")
    if not data:
        raise MediaError("corrupt-media", "The file is empty.")
    return data


def read_views(
    item: Item, kind: Kind, options: EncodingOptions, leave_resize: bool = False, leave_jpegs: bool = False
) -> tuple[str, list[View]]:
    """Return the hash of an item's bytes, and its views.

    The first one is what training, command and service read of the same file; a clip that has fewer frames than
    `options.frames` holds its last one, as in training.

    Args:
        item, kind: of the source.
        options: the pixels that are wanted.
        leave_resize: decode pictures only, where the rest is a resampling.
        leave_jpegs: look at the headers of JPEGs only, where the rest is plain decoding and a resampling.

    Raises:
        Exception: many kinds, for what cannot be read.
    """
    data = read_bytes(item)
    digest = hashlib.sha256(data).hexdigest()
    views = []
    for window in windows(digest, kind, options):
        reader = open_frames(io.BytesIO(data), None, media_options(kind, options), window=window)
        check_kind(reader, kind)
        left = reader.undecoded() if leave_jpegs and isinstance(reader, StillReader) else None
        if left is not None and math.prod(left[0]) <= JPEG_ENLARGEMENT * math.prod(left[1].target):
            size, planned = left
            views.append(View(np.frombuffer(data, np.uint8), steps_of(reader.preprocess), planned, size))
            continue
        if leave_resize and isinstance(reader, StillReader):
            pixels, resampling = reader.read_source()
            views.append(View(pixels[None], steps_of(reader.preprocess), resampling))
            continue
        frames = list(reader)
        if kind == "clips" and options.frames is not None:
            frames += [frames[-1]] * (options.frames - len(frames))
        views.append(View(np.stack(frames), steps_of(reader.preprocess)))
    return digest, views


@lru_cache(maxsize=1024)
def steps_of(preprocess: Preprocess) -> dict[str, Any]:
    """Return steps by name; equal ones are one object, which a message and a shard then hold once."""
    return vars(preprocess)


def open_video(item: Item, options: EncodingOptions) -> tuple[str, FrameReader]:
    """Open a clip that is encoded as long as it is, to be read frame by frame; return the hash of its bytes too.

    Raises:
        Exception: many kinds, for what cannot be read.
    """
    if item.start == WHOLE_FILE:
        file: Any = open(item.file, "rb")  # noqa: SIM115  the reader reads it to its end
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    else:
        data = read_bytes(item)
        file, digest = io.BytesIO(data), hashlib.sha256(data).hexdigest()
    # A reader that saw a name could take it for an address.
    plain = file if isinstance(file, io.BytesIO) else io.BufferedReader(_Nameless(file))
    reader = open_frames(plain, None, media_options("clips", options), window=SampleWindow(fps=options.fps))
    check_kind(reader, "clips")
    return digest, reader


class _Nameless(io.RawIOBase):
    """A file without its name."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def readinto(self, buffer: Any) -> int:
        return int(self._file.readinto(buffer))

    def close(self) -> None:
        self._file.close()
        super().close()


def media_options(kind: Kind, options: EncodingOptions) -> MediaOptions:
    """Return the options of `media` for items of a kind."""
    size = None if options.height is None or options.width is None else (options.height, options.width)
    frames = 1 if kind == "images" else options.frames
    return MediaOptions(size=size, fit=options.fit, frames=frames, animated=kind == "clips")


def windows(digest: str, kind: Kind, options: EncodingOptions) -> Iterator[SampleWindow]:
    """Yield the windows of an item's views: the middle from the start, then random ones that follow from its content.

    Args:
        digest: hash of its bytes, hexadecimal.
        kind: of the item.
        options: of the run.
    """
    yield SampleWindow(fps=options.fps)
    if options.views > 1:
        words = [int(digest[8 * word : 8 * word + 8], 16) for word in range(HASH_WORDS)]
        positions = np.random.default_rng([options.seed, *words]).random((options.views - 1, 2))
        for place, start in positions.tolist():
            yield SampleWindow(place, start if kind == "clips" else 0.0, options.fps)


def check_kind(reader: FrameReader, kind: Kind) -> None:
    """Refuse a clip with the name of a picture, and the reverse.

    Raises:
        MediaError: "unsupported-container".
    """
    if reader.is_video != (kind == "clips"):
        found = "a clip" if reader.is_video else "one picture"
        raise MediaError("unsupported-container", f"The file holds {found}, and its name says otherwise.")


@lru_cache(maxsize=1)
def _row_group(path: str, group: int) -> Any:
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    return file.read_row_group(group, columns=[bytes_column(file.schema_arrow.names, path)]).column(0)


@lru_cache(maxsize=8)
def _group_ends(path: str) -> NDArray[np.int64]:
    import pyarrow.parquet as pq

    metadata = pq.ParquetFile(path).metadata
    return np.cumsum([metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)])


def _parquet_row(path: str, row: int) -> bytes:
    ends = _group_ends(path)
    group = int(np.searchsorted(ends, row, side="right"))
    value = _row_group(path, group)[row - int(ends[group])].as_py()  # counted from its end
    data = value.get("bytes") if isinstance(value, dict) else value
    return bytes(data or b"")
