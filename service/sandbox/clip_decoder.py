"""A worker process of its own for one clip that is decoded while it arrives."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from media.types import MediaOptions, Preprocess, SourceInfo
from service.chunks import StreamDescription
from service.sandbox.ipc import ClosedError
from service.sandbox.process import WorkerProcess
from service.settings import Limits

Stop = Literal["want", "begin", "full", "end"]


class _Description(BaseModel):
    model_config = ConfigDict(extra="forbid")
    source: SourceInfo
    preprocess: Preprocess
    fps: float | None


class ClipDecoder(WorkerProcess):
    """A decoder of one clip, step by step. Its methods block, as those of `WorkerProcess` do.

    Attributes:
        shape: height and width of the frames, known after the step that stops at "begin".
        description: of the clip, as far as it is known.
    """

    shape: tuple[int, int] = (0, 0)
    description: StreamDescription
    _part: NDArray[np.uint8]
    _filled = 0

    def begin(self, media_type: str, options: MediaOptions) -> None:
        """Name the clip, whose pieces follow.

        Args:
            media_type: from its first bytes.
            options: size and window.
        """
        self._begin({"op": "stream", "media_type": media_type, "options": vars(options)}, b"", self._seconds)

    def make_room(self, frames: int) -> None:
        """Have the next steps fill a new part of so many frames."""
        self._part, self._filled = np.empty((frames, *self.shape, 3), np.uint8), 0

    def take_part(self) -> NDArray[np.uint8]:
        """Return the frames that the steps filled."""
        part = self._part[: self._filled]
        self.make_room(0)
        return part

    def step(self, piece: bytes | None) -> Stop:
        """Decode until there is a reason to stop: a piece is wanted, the clip begins or ends, or the part is full.

        Args:
            piece: what the step before wanted, empty at the end of the clip; None if it stopped for another reason.

        Raises:
            ProblemError: the file's fault.
            ClosedError, TimeoutError, OutOfMemoryError: the process is lost.
        """
        self._channel.deadline = time.monotonic() + self._seconds
        if piece is not None:
            self._channel.send({"bytes": len(piece)}, piece)
        while True:
            header = self._expect("want", "begin", "frame", "end")
            kind = header.pop("kind")
            if kind == "want":
                return "want"
            if kind == "frame":
                self._receive_frame()
                if self._filled == len(self._part):
                    return "full"
                continue
            if kind == "begin":
                shape = header.pop("shape", None)
                _, height, width, _ = self._checked_shape([1, *shape] if isinstance(shape, list) else shape)
                self.shape = (height, width)
            try:
                found = _Description.model_validate(header)
            except ValidationError as error:
                raise ClosedError(f"The worker sent an answer of another form: {error}.") from error
            self.description = StreamDescription(found.source, found.preprocess, found.fps)
            return "begin" if kind == "begin" else "end"

    @property
    def _seconds(self) -> float:
        return self.limits.decode_seconds

    def _receive_frame(self) -> None:
        if self._filled >= len(self._part):
            raise ClosedError("The worker sent a frame that nobody has asked for.")
        self._channel.receive_into(memoryview(self._part[self._filled]).cast("B"))
        self._filled += 1


async def start_decoder(limits: Limits, directory: Path, allow_weak: bool, niceness: int) -> ClipDecoder:
    """Start a process, which ends even if nobody waits for it any more; arguments and errors as `WorkerProcess`."""
    starting = asyncio.get_running_loop().run_in_executor(None, ClipDecoder, limits, directory, allow_weak, niceness)
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        starting.add_done_callback(_kill_started)
        raise


def _kill_started(starting: asyncio.Future[ClipDecoder]) -> None:
    if starting.exception() is None:
        starting.result().kill()
