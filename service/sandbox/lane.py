"""A place for one worker process at a time: it runs tasks, replaces what it loses, and finds out what is to blame."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import nullcontext
from typing import TypeVar

from media.types import MediaOptions
from service.errors import ProblemError
from service.sandbox.blocklist import Blocklist
from service.sandbox.ipc import ClosedError
from service.sandbox.memory_watch import MemoryWatch
from service.sandbox.picture_reader import Done, Lost, PictureReader
from service.sandbox.process import OutOfMemoryError, WorkerProcess

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

# Leaks in codecs stay small if no process lives long; a start takes as long as hundreds of small pictures.
_TASKS_PER_WORKER = 20_000
# Of them, after which the next process starts while the present one works.
_SUCCESSOR_SHARE = 0.8
# A process may be at fault that read other files before, so that a file is tried in fresh ones.
_ATTEMPTS = 3
_CRASHES_OF_A_BAD_FILE = 2
# A worker that is killed with less of its memory in use was not killed for its memory.
_LARGE_SHARE = 0.5
_RETRY_AFTER_SECONDS = 1.0


class Lane:
    """One worker process after the other. Its methods block, for a thread, but for those that say otherwise.

    Args:
        start: starts a process.
        max_cost: of the tasks that come here, in the pool's unit.
        blocklist: files that crash the decoder, shared by all lanes.
        lost: called with the reason for each process that is replaced.
    """

    def __init__(
        self, start: Callable[[], WorkerProcess], max_cost: float, blocklist: Blocklist, lost: Callable[[str], None]
    ) -> None:
        self.max_cost = max_cost
        self.abandoned = False
        self._start, self._blocklist, self._lost = start, blocklist, lost
        self._worker: WorkerProcess | None = None
        self._successor: Future[WorkerProcess] | None = None
        self._reader: PictureReader | None = None

    @property
    def is_fit(self) -> bool:
        """Return whether the process can take a task."""
        worker = self._worker
        if worker is None or worker.tasks >= _TASKS_PER_WORKER:
            return False
        # The event loop kills what it sees end, and to ask the kernel for each picture takes time.
        return worker.alive if self._reader is None else not worker.killed

    def fit(self) -> WorkerProcess:
        """Return the process, or a fresh one if it has died or has served long enough.

        Raises:
            RuntimeError: it does not start.
        """
        worker = self._worker
        if worker is not None and self.is_fit:
            return worker
        if worker is not None:
            self._replace("recycled" if worker.alive else "cancelled" if self.abandoned else worker.reap())
        successor, self._successor = self._successor, None
        self._worker = self._start() if successor is None else successor.result()
        return self._worker

    def look_ahead(self, threads: Executor) -> None:
        """Start the next process in one of these threads once the present one has served for most of its time."""
        worker = self._worker
        if worker is not None and self._successor is None and worker.tasks >= _SUCCESSOR_SHARE * _TASKS_PER_WORKER:
            self._successor = threads.submit(self._start)

    def begin(self, picture: bytes, media_type: str, options: MediaOptions, max_pixels: int, done: Done) -> bool:
        """Begin a small picture on the event loop; for its thread.

        Args:
            picture, media_type, options, max_pixels, done: as for `PictureReader.decode`. After the loss of the process
                the task goes on in `run`.

        Returns:
            False if it takes `run`: to start a process, to send a large file, or to refuse the file.
        """
        worker = self._worker
        if worker is None or not self.is_fit or not worker.fits(picture) or self._blocklist.holds(picture):
            return False
        if self._reader is None:
            self._reader = PictureReader(worker)
        self._reader.decode(picture, media_type, options, max_pixels, done)
        return True

    def leave_loop(self) -> None:
        """Have the event loop let go of the process, before a thread uses it; for the loop's thread."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

    def run(
        self, task: Callable[[WorkerProcess], Result], data: bytes | None, first_loss: Lost | None = None
    ) -> Result:
        """Run a task, again on a fresh process if the process is lost.

        Args:
            task: what to do.
            data: the file that it decodes, if it decodes one.
            first_loss: of the present process, under this task.

        Raises:
            ProblemError: the refusal of the worker, or why there is no result.
        """
        if data is not None and self._blocklist.holds(data):
            raise ProblemError("corrupt-media", "This file has crashed the decoder before.")
        crashes, reason = 0, ""
        for _ in range(_ATTEMPTS):
            worker = self._worker if first_loss is not None else self.fit()
            assert worker is not None
            is_alone = worker.tasks == (0 if first_loss is None else 1)
            if self.abandoned and first_loss is None:  # while the process started
                break
            # What others killed once may have filled the memory of the machine.
            watch = MemoryWatch(worker.pid) if reason == "killed" else None
            try:
                if first_loss is not None:
                    loss, first_loss = first_loss, None
                    raise loss
                with watch or nullcontext():
                    return task(worker)
            except TimeoutError:
                self._replace("timeout")
                raise ProblemError(
                    "decode-budget",
                    "The media took longer to process than one request may.",
                    limit=worker.limits.decode_seconds,
                ) from None
            except OutOfMemoryError:
                reason = "memory"
                self._replace(reason)
                if not is_alone:  # what others left behind may have filled it
                    continue
                raise ProblemError("decode-budget", "The media took more memory than one request may.") from None
            except ClosedError as error:
                reason = "cancelled" if self.abandoned else worker.reap()
                self._replace(reason)
                logger.warning("a media worker was lost: %s (%s)", reason, error)
                if self.abandoned:
                    break
                if reason == "cpu":
                    raise ProblemError("decode-budget", "The media took more CPU time than one request may.") from None
                is_own_doing = reason != "killed" or is_large(watch, worker)
                crashes += is_alone and is_own_doing
                if crashes == _CRASHES_OF_A_BAD_FILE:
                    break
        if self.abandoned:
            raise ProblemError("draining", "The task was given up.")
        if crashes < _CRASHES_OF_A_BAD_FILE:
            raise ProblemError(
                "overloaded",
                f"{_ATTEMPTS} media workers were ended under this task, one after the other. Try again.",
                retry_after_seconds=_RETRY_AFTER_SECONDS,
            )
        if data is None:
            raise ProblemError("internal", "The result could not be written.")
        self._blocklist.add(data)
        raise ProblemError("corrupt-media", "The file crashed the decoder.")

    def abandon(self) -> None:
        """End the process under the task, whose result nobody wants any more; for any thread."""
        self.abandoned = True
        if self._worker is not None:
            self._worker.kill()

    def end(self) -> None:
        """End the process, and the next one."""
        self._end(self._worker)
        self._worker = None
        successor, self._successor = self._successor, None
        if successor is not None and not successor.cancelled() and successor.exception() is None:
            self._end(successor.result())

    def _replace(self, reason: str) -> None:
        self._end(self._worker)
        self._worker = None
        self._lost(reason)

    @staticmethod
    def _end(worker: WorkerProcess | None) -> None:
        if worker is not None:
            worker.kill()
            worker.reap()


def is_large(watch: MemoryWatch | None, worker: WorkerProcess) -> bool:
    """Return whether a worker that was killed under watch had filled much of the memory that it may have."""
    return watch is not None and watch.peak_bytes >= _LARGE_SHARE * worker.limits.worker_memory_bytes
