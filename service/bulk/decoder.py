"""A process that reads items: the files of a data set may crash it, and it may be ended at any moment."""

from __future__ import annotations

import mmap
import os
import resource
import warnings
from collections.abc import Sequence
from itertools import islice
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from media.errors import MediaError
from media.frame_reader import FrameReader
from media.kinds import Kind
from model.codes.info import EncodingOptions
from service.allocator import keep_freed_blocks
from service.bulk.reading import View, open_video, read_views
from service.bulk.sources import Item

ADDRESS_SPACE_BYTES = 8 * 2**30  # a picture that wants more is a bomb
ALIGNMENT = 64
TOO_LARGE = "It does not fit into the memory of the device."


class Slot(NamedTuple):
    """A part of the shared memory.

    Args:
        start, size: bytes, of which the first `ALIGNMENT` count items.
    """

    start: int
    size: int


def progress(memory: mmap.mmap, slot: Slot) -> NDArray[np.int64]:
    """Return the place of the item that a process reads into a slot, int64 (1), shared with that process."""
    return np.frombuffer(memory, np.int64, 1, slot.start)


class Job(NamedTuple):
    """Items to read, with one answer for all: a `Read` or `Failed` for each.

    Args:
        items: of one kind.
        kind: of the items.
        slot: where pixels go until it is full; the others come in the answer.
        leave_jpegs: as of `read_views`.
    """

    items: Sequence[Item]
    kind: Kind
    slot: Slot
    leave_jpegs: bool = False


class VideoJob(NamedTuple):
    """A clip to open, which is then read part by part."""

    item: Item


class PartJob(NamedTuple):
    """The next frames of the opened clip.

    Args:
        frames: the most to read.
        slot: as of `Job`.
    """

    frames: int
    slot: Slot


class Placed(NamedTuple):
    """Pixels in the shared memory."""

    start: int
    shape: tuple[int, ...]


class Read(NamedTuple):
    """An item that was read.

    Args:
        digest: SHA-256 of its bytes.
        views: whose pixels may be replaced by their place.
    """

    digest: str
    views: list[View]


class Failed(NamedTuple):
    """An item that cannot be encoded.

    Args:
        reason: a sentence.
        retry: the machine may be the cause, not the item: a later run tries again.
    """

    reason: str
    retry: bool = False


class OpenedVideo(NamedTuple):
    """An opened clip."""

    digest: str


class Part(NamedTuple):
    """The next frames of a clip, or where they are, fewer than asked for at its end; and the reader's description."""

    pixels: Any
    source: Any
    preprocess: Any


def main(channel: int, memory: int, size: int, options: dict[str, Any], leave_resize: bool) -> None:
    """Answer jobs until the channel closes.

    Args:
        channel: descriptor of the inherited socket.
        memory: descriptor of the shared memory.
        size: of that memory, bytes.
        options: of `EncodingOptions`.
        leave_resize: as of `read_views`.
    """
    import av

    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES + size, ADDRESS_SPACE_BYTES + size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    av.logging.set_level(None)
    keep_freed_blocks()
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # training reads such pictures too
    Decoder(Connection(channel), mmap.mmap(memory, size), EncodingOptions(**options), leave_resize).run()


class Decoder:
    """The loop of the process.

    Args:
        connection: to the pool.
        memory: shared with it.
        options: the pixels that are wanted.
        leave_resize: as of `read_views`.
    """

    def __init__(self, connection: Connection, memory: mmap.mmap, options: EncodingOptions, leave_resize: bool) -> None:
        self._connection, self._memory, self._options = connection, memory, options
        self._leave_resize = leave_resize
        self._frames: Any = iter(())
        self._reader: FrameReader | None = None

    def run(self) -> None:
        """Answer jobs until the other side is gone."""
        self._connection.send("ready")
        while True:
            try:
                job = self._connection.recv()
            except (EOFError, OSError):
                return
            if isinstance(job, Job):
                self._connection.send(self._read_all(job))
                continue
            try:
                answer: OpenedVideo | Part | Failed = self._answer(job)
            except Exception as error:  # damaged media fail in every way that there is
                answer = failure(error)
            self._connection.send(answer)

    def _answer(self, job: VideoJob | PartJob) -> OpenedVideo | Part:
        if isinstance(job, VideoJob):
            digest, self._reader = open_video(job.item, self._options)
            self._frames = iter(self._reader)
            return OpenedVideo(digest)
        return self._part(job)

    def _read_all(self, job: Job) -> list[Read | Failed]:
        current, writer, answers = progress(self._memory, job.slot), SlotWriter(self._memory, job.slot), []
        for number, item in enumerate(job.items):
            current[0] = number
            answers.append(self._read(item, job, writer))
        return answers

    def _read(self, item: Item, job: Job, writer: SlotWriter) -> Read | Failed:
        try:
            digest, views = read_views(item, job.kind, self._options, self._leave_resize, job.leave_jpegs)
            return Read(digest, [view._replace(pixels=writer.put(view.pixels)) for view in views])
        except Exception as error:
            return failure(error)

    def _part(self, job: PartJob) -> Part:
        assert self._reader is not None
        frames = list(islice(self._frames, job.frames))
        pixels = np.stack(frames) if frames else np.empty((0, 0, 0, 3), np.uint8)
        writer = SlotWriter(self._memory, job.slot)
        return Part(writer.put(pixels), self._reader.info(), self._reader.preprocess)


class SlotWriter:
    """A slot that fills up."""

    def __init__(self, memory: mmap.mmap, slot: Slot) -> None:
        self._memory, self._next, self._end = memory, slot.start + ALIGNMENT, slot.start + slot.size

    def put(self, pixels: NDArray[np.uint8]) -> Any:
        """Return where the pixels are now, or the pixels themselves if the slot is full."""
        start, end = self._next, self._next + pixels.nbytes
        if end > self._end:
            return pixels
        np.copyto(np.frombuffer(self._memory, np.uint8, pixels.nbytes, start).reshape(pixels.shape), pixels)
        self._next = -(-end // ALIGNMENT) * ALIGNMENT
        return Placed(start, pixels.shape)


def failure(error: Exception) -> Failed:
    """Return an item that cannot be read; an error of the system passes, damage stays."""
    return Failed(reason(error), retry=isinstance(error, OSError) and error.errno is not None)


def reason(error: BaseException) -> str:
    """Return one line that says why an item cannot be read."""
    if isinstance(error, MediaError):
        return error.detail
    if isinstance(error, MemoryError):
        return f"Reading takes more than {ADDRESS_SPACE_BYTES / 2**30:g} GiB of memory."
    if isinstance(error, OSError) and error.strerror:
        return f"{os.path.basename(error.filename) if error.filename else 'The file'}: {error.strerror}."
    return " ".join(f"{type(error).__name__}: {error}".split())
