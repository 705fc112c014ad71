"""Small pictures that the event loop sends and receives: handing each to a thread and back takes longer than that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from media.types import Frames, MediaOptions
from service.errors import ProblemError
from service.sandbox.ipc import ClosedError
from service.sandbox.process import OutOfMemoryError, WorkerProcess

Lost = ClosedError | TimeoutError | OutOfMemoryError
Done = Callable[[Frames | ProblemError | Lost], None]


class PictureReader:
    """The event loop's hold on a worker, one picture at a time. All methods are for the loop's thread.

    Args:
        worker: a process that no thread uses until `close`.
    """

    def __init__(self, worker: WorkerProcess) -> None:
        self.worker = worker
        self._loop = asyncio.get_running_loop()
        self._descriptor = worker.fileno()
        self._done: Done | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._loop.add_reader(self._descriptor, self._read)

    def decode(self, data: bytes, media_type: str, options: MediaOptions, max_pixels: int, done: Done) -> None:
        """Send a picture.

        Args:
            data, media_type, options, max_pixels: as for `WorkerProcess.begin_picture`.
            done: called once, later: with the frames, the refusal of the file, or the loss of the process.
        """
        self._done = done
        late = TimeoutError("The deadline passed.")
        self._timer = self._loop.call_later(self.worker.limits.decode_seconds, self._end, late)
        try:
            self.worker.begin_picture(data, media_type, options, max_pixels)
        except ClosedError as error:
            self._loop.call_soon(self._end, error)

    def close(self) -> None:
        """Leave the worker to threads; a picture that is on its way is given up."""
        self._loop.remove_reader(self._descriptor)
        self._end(ProblemError("draining", "The task was given up."))

    def _read(self) -> None:
        if self._done is None:  # the process ended, or speaks without being asked
            self._loop.remove_reader(self._descriptor)
            self.worker.kill()
            return
        try:
            outcome = self.worker.take_picture()
        except (ProblemError, ClosedError, OutOfMemoryError) as error:
            self._end(error)
        else:
            if outcome is not None:
                self._end(outcome)

    def _end(self, outcome: Frames | ProblemError | Lost) -> None:
        done, self._done = self._done, None
        if done is not None:
            assert self._timer is not None
            self._timer.cancel()
            done(outcome)
