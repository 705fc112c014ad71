"""Media workers for an event loop: a bounded queue, a wall clock for every task, a fresh process after every loss."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from media.errors import MediaError
from media.identify import VIDEO_TYPES, identify
from media.limits import check_bytes
from media.types import Frames, MediaOptions
from service.errors import ProblemError
from service.sandbox.blocklist import Blocklist
from service.sandbox.ipc import ClosedError
from service.sandbox.process import OutOfMemoryError, WorkerProcess
from service.settings import Limits

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

# Leaks in codecs stay small if no process lives long.
_TASKS_PER_WORKER = 200
_QUEUE_PER_WORKER = 16
# What waits is held in memory; a single task of any size may always wait.
_QUEUE_BYTES_PER_WORKER = 128 * 2**20
_RETRY_AFTER_SECONDS = 1.0
# A crash may be the machine's fault once; the same file crashing a second, fresh worker is the file's.
_ATTEMPTS = 2


class MediaPool:
    """Decodes hostile media and encodes results in processes that may die.

    Args:
        limits: what one request may cost.
        workers: number of processes, which is the number of tasks at a time.
        allow_weak: start even if the kernel lacks a wall of the sandbox.

    Attributes:
        results: tasks by (what was done: "decode" or "encode", container such as "mp4" or "unknown", "ok" or the
            problem's code).
        restarts: processes replaced, by reason: "crash", "cpu", "timeout", "memory", "cancelled", "recycled".
    """

    def __init__(self, limits: Limits, workers: int, allow_weak: bool = False) -> None:
        self.limits, self.workers, self._allow_weak = limits, workers, allow_weak
        self.results: Counter[tuple[str, str, str]] = Counter()
        self.restarts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._blocklist = Blocklist()
        self._waiting = self._waiting_bytes = 0
        self._stopping = False
        self._releases: set[asyncio.Task[None]] = set()
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="media")
        self._idle: asyncio.Queue[_Slot] = asyncio.Queue()
        self._slots: list[_Slot] = []
        self._directory = Path(os.devnull)

    @property
    def alive(self) -> bool:
        """Return whether the pool has started and is not stopping; a process that died is replaced by the next task."""
        return bool(self._slots) and not self._stopping

    async def start(self) -> None:
        """Start all processes.

        Raises:
            RuntimeError: one of them does not start.
        """
        self._directory = Path(tempfile.mkdtemp(prefix="media-"))
        self._slots = [_Slot() for _ in range(self.workers)]
        loop = asyncio.get_running_loop()
        try:
            await asyncio.gather(*(loop.run_in_executor(self._threads, self._fit_worker, slot) for slot in self._slots))
        except BaseException:
            await self.stop()
            raise
        for slot in self._slots:
            self._idle.put_nowait(slot)

    async def stop(self) -> None:
        """End all processes; tasks that run are refused with "draining"."""
        self._stopping = True
        for slot in self._slots:
            slot.abandon()
        await asyncio.gather(*self._releases, return_exceptions=True)
        await asyncio.to_thread(self._threads.shutdown)
        for slot in self._slots:
            slot.end()
        if self._directory.is_dir():
            shutil.rmtree(self._directory, ignore_errors=True)

    async def decode(self, data: bytes, declared: str | None, options: MediaOptions) -> Frames:
        """Decode a picture or clip.

        Args:
            data: the whole file.
            declared: the media type that the sender gave, None if it gave none.
            options: size, window and sampling.

        Raises:
            ProblemError: anything that is wrong with the file, or "overloaded" or "draining".
        """
        container = "unknown"
        try:
            try:
                media_type = identify(data, declared)
                container = media_type.split("/")[1]
                check_bytes(self.limits, len(data), media_type in VIDEO_TYPES)
            except MediaError as error:
                raise ProblemError.of(error) from error
            frames = await self._submit(lambda worker: worker.decode(data, media_type, options), len(data), data)
        except ProblemError as problem:
            self.results["decode", container, problem.code] += 1
            raise
        self.results["decode", container, "ok"] += 1
        return frames

    async def encode(self, pixels: NDArray[np.uint8], media_type: str, fps: float, quality: int | None = None) -> bytes:
        """Encode a result.

        Args:
            pixels: uint8 RGB (T, H, W, 3); T is 1 for a picture.
            media_type: one of `IMAGE_OUTPUTS` or `VIDEO_OUTPUTS` of `media.identify`.
            fps: frames per second of a clip; a picture has none.
            quality: 1..100 for JPEG and WebP, None for the default.

        Raises:
            ProblemError: "invalid-options" for what the format does not take, or "overloaded" or "draining".
        """
        container = media_type.split("/")[-1]
        try:
            file = await self._submit(lambda worker: worker.encode(pixels, media_type, fps, quality), pixels.nbytes)
        except ProblemError as problem:
            self.results["encode", container, problem.code] += 1
            raise
        self.results["encode", container, "ok"] += 1
        return file

    async def _submit(self, task: Callable[[WorkerProcess], Result], size: int, data: bytes | None = None) -> Result:
        slot = await self._acquire(size)
        if self._stopping:
            self._idle.put_nowait(slot)  # for the next one that waits, to be told the same
            raise ProblemError("draining", "The service is shutting down.")
        slot.abandoned = False
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._threads, self._run, slot, task, data)
        release = loop.create_task(self._release(slot, future))
        self._releases.add(release)
        release.add_done_callback(self._releases.discard)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            if not future.done():
                slot.abandon()
            raise

    async def _acquire(self, size: int) -> _Slot:
        too_many = self._waiting >= _QUEUE_PER_WORKER * self.workers
        too_large = self._waiting > 0 and self._waiting_bytes + size > _QUEUE_BYTES_PER_WORKER * self.workers
        if self._idle.empty() and (too_many or too_large):
            raise ProblemError(
                "overloaded",
                f"{self._waiting} files of {self._waiting_bytes} bytes wait for {self.workers} media workers already.",
                retry_after_seconds=_RETRY_AFTER_SECONDS,
            )
        self._waiting += 1
        self._waiting_bytes += size
        try:
            return await self._idle.get()
        finally:
            self._waiting -= 1
            self._waiting_bytes -= size

    async def _release(self, slot: _Slot, future: asyncio.Future[Result]) -> None:
        """Give a slot back with a fit process in it, after the answer has left."""
        await asyncio.wait([future])
        future.exception()
        try:
            if not self._stopping:
                await asyncio.get_running_loop().run_in_executor(self._threads, self._fit_worker, slot)
        except Exception:
            logger.exception("a media worker did not start; the next task tries again")
        finally:
            self._idle.put_nowait(slot)

    def _run(self, slot: _Slot, task: Callable[[WorkerProcess], Result], data: bytes | None) -> Result:
        """In a thread: the task on this slot's process, and once more on a fresh one if the process crashes."""
        if data is not None and self._blocklist.holds(data):
            raise ProblemError("corrupt-media", "This file has crashed the decoder before.")
        for _ in range(_ATTEMPTS):
            worker = self._fit_worker(slot)
            if slot.abandoned:  # while the process started
                break
            try:
                return task(worker)
            except TimeoutError:
                slot.end()
                self._lost("timeout")
                raise ProblemError(
                    "decode-budget",
                    "The media took longer to process than one request may.",
                    limit=self.limits.decode_seconds,
                ) from None
            except OutOfMemoryError:
                slot.end()
                self._lost("memory")
                raise ProblemError("decode-budget", "The media took more memory than one request may.") from None
            except ClosedError as error:
                reason = "cancelled" if slot.abandoned else worker.reap()
                slot.end()
                self._lost(reason)
                logger.warning("a media worker was lost: %s (%s)", reason, error)
                if slot.abandoned:
                    break
                if reason == "cpu":
                    raise ProblemError("decode-budget", "The media took more CPU time than one request may.") from None
        if slot.abandoned:
            raise ProblemError("draining", "The task was given up.")
        if data is not None:
            self._blocklist.add(data)
            raise ProblemError("corrupt-media", "The file crashed the decoder.")
        raise ProblemError("internal", "The result could not be written.")

    def _fit_worker(self, slot: _Slot) -> WorkerProcess:
        """In a thread: the slot's process, or a fresh one if it has died or has served long enough."""
        worker = slot.worker
        if worker is not None and worker.alive and worker.tasks < _TASKS_PER_WORKER:
            return worker
        if worker is not None:
            ended = "cancelled" if slot.abandoned else "crash"
            self._lost("recycled" if worker.alive else ended)
            slot.end()
        slot.worker = WorkerProcess(self.limits, self._directory, self._allow_weak)
        return slot.worker

    def _lost(self, reason: str) -> None:
        with self._lock:
            self.restarts[reason] += 1


class _Slot:
    """A place for one process at a time."""

    def __init__(self) -> None:
        self.worker: WorkerProcess | None = None
        self.abandoned = False

    def abandon(self) -> None:
        """From the event loop: end the process under the task, whose result nobody wants any more."""
        self.abandoned = True
        if self.worker is not None:
            self.worker.kill()

    def end(self) -> None:
        if self.worker is not None:
            self.worker.kill()
            self.worker.reap()
            self.worker = None
