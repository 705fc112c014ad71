"""Media workers for an event loop: admission by cost, a wall clock for every task, a fresh process after every loss."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from media.cost import decoded_pixels
from media.errors import MediaError
from media.frame_choice import check_streams
from media.identify import IMAGE_TYPES, VIDEO_TYPES, identify
from media.limits import check_bytes
from media.types import Frames, MediaOptions
from service.drain_rate import DrainRate, retry_after
from service.errors import ProblemError
from service.held_directory import HeldDirectory
from service.sandbox.blocklist import Blocklist
from service.sandbox.clip_decoder import ClipDecoder, Stop, start_decoder
from service.sandbox.fair_queue import FairQueue, Ticket
from service.sandbox.lane import Lane
from service.sandbox.picture_reader import Done, Lost
from service.sandbox.process import WorkerProcess
from service.sandbox.stream import FrameStream, with_head
from service.sandbox.task import Begin, Task, never
from service.settings import Limits

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
Work = Callable[[WorkerProcess, int], Result]  # a task on a process, given the most pixels that it may decode there

_QUEUE_PER_WORKER = 16
_LEAST_QUEUE_PER_WORKER = 8  # or workers would wait for files while the machine is busy for a moment
_QUEUE_BYTES_PER_WORKER = 128 * 2**20  # of memory; a single task of any size may always wait
_QUEUE_FILES_PER_WORKER = 2  # that cost as much as one may
_PATIENCE = 16  # a caller may be all the world: one file of a few pixels should pass a whole queue of large ones
_TASK_PIXELS = 1_000_000  # costs are in pixels; what a task costs in addition is worth so many
_EXPECTED_PIXELS, _RATE_SECONDS = 100e6, 20.0  # of a worker's first second; of work that counts
_ENCODED_PIXELS = 4  # a pixel of a clip takes longer to write than to read
# One worker of so many is kept for tasks that take less than a tenth of a second.
_WORKERS_PER_FAST_LANE, _FAST_PIXELS = 4, 16_000_000
_LOOP_PIXELS = 2**20  # of a picture that the event loop receives by itself, in less than a millisecond
_SLOW_NICENESS = 10  # what takes long must not take the processor from what is short


class MediaPool:
    """A pool of processes that decode hostile media and encode results; each may die.

    Tasks run in the order of `FairQueue`, by the pixels that they decode. Of several workers the last quarter, at
    least one, takes only cheap tasks. A clip that turns out to be dear there is refused by the worker before it is
    decoded, and waits for another one.

    Args:
        limits: what one request may cost.
        workers: number of processes, which is the number of tasks at a time.
        allow_weak: start even if the kernel lacks a wall of the sandbox.
        clock: seconds, monotonic; the times of tasks are what their callers pay.
        max_queue_seconds: that a small file may be expected to wait; the bounds of files and bytes hold too.

    Attributes:
        results: tasks by (what was done: "decode", "encode" or "stream"; container such as "mp4" or "unknown"; "ok" or
            the problem's code).
        restarts: processes replaced, by reason: "crash", "forbidden", "killed", "cpu", "timeout", "memory",
            "cancelled", "recycled".
    """

    def __init__(
        self,
        limits: Limits,
        workers: int,
        allow_weak: bool = False,
        clock: Callable[[], float] = time.monotonic,
        max_queue_seconds: float = math.inf,
    ) -> None:
        self.limits, self.workers, self._allow_weak, self._clock = limits, workers, allow_weak, clock
        self.results: Counter[tuple[str, str, str]] = Counter()
        self.restarts: Counter[str] = Counter()
        self._max_queue_seconds = max_queue_seconds
        self._lock = threading.Lock()
        self._queue: FairQueue[Task[Any]] = FairQueue(
            _QUEUE_PER_WORKER * workers,
            _QUEUE_FILES_PER_WORKER * limits.decoded_pixels * workers,
            _QUEUE_BYTES_PER_WORKER * workers,
            _PATIENCE,
        )
        self._rate = DrainRate(_RATE_SECONDS, math.inf, _EXPECTED_PIXELS)
        self._stopping = False
        self._releases: set[asyncio.Task[None]] = set()
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="media")
        self._starts = ThreadPoolExecutor(1, thread_name_prefix="media-start")
        self._lanes: list[Lane] = []
        self._idle: list[Lane] = []
        self._directory: HeldDirectory | None = None

    @property
    def alive(self) -> bool:
        """Return whether the pool has started and is not stopping; a process that died is replaced by the next task."""
        return bool(self._lanes) and not self._stopping

    async def start(self) -> None:
        """Start all processes.

        Raises:
            RuntimeError: one of them does not start.
        """
        self._directory = HeldDirectory("omnitok-media-")
        fast = math.ceil(self.workers / _WORKERS_PER_FAST_LANE) if self.workers > 1 else 0
        blocklist = Blocklist()
        for index in range(self.workers):
            is_slow = 0 < fast <= index
            start = partial(
                WorkerProcess, self.limits, self._directory.path, self._allow_weak, _SLOW_NICENESS if is_slow else 0
            )
            self._lanes.append(Lane(start, _FAST_PIXELS if index < fast else math.inf, blocklist, self._lost))
        loop = asyncio.get_running_loop()
        try:
            await asyncio.gather(*(loop.run_in_executor(self._threads, lane.fit) for lane in self._lanes))
        except BaseException:
            await self.stop()
            raise
        self._idle = list(self._lanes)

    async def stop(self) -> None:
        """End all processes; tasks that run or wait are refused with "draining"."""
        self._stopping = True
        for ticket in self._queue.drain():
            ticket.task.fail(ProblemError("draining", "The service is shutting down."))
        for lane in self._lanes:
            lane.abandon()
            lane.leave_loop()
        await asyncio.gather(*self._releases, return_exceptions=True)
        for threads in (self._threads, self._starts):
            await asyncio.to_thread(threads.shutdown, cancel_futures=True)
        for lane in self._lanes:
            lane.end()
        if self._directory is not None:
            self._directory.close()

    def load(self) -> dict[str, float]:
        """Return the state of the pool, by the names of its gauges."""
        return {
            "media_workers": len(self._lanes),
            "media_workers_busy": len(self._lanes) - len(self._idle),
            "media_queue_files": len(self._queue),
            "media_queue_age_seconds": self._queue.oldest or 0.0,
        }

    def check_load(self, caller: str, elsewhere: float = 0.0) -> None:
        """Refuse a file before it is read, where it would be refused afterwards: reading a crowd's starves the rest.

        Args:
            caller: as `decode`.
            elsewhere: seconds that it may be expected to wait before and after; they leave less for the workers.

        Raises:
            ProblemError: "overloaded".
        """
        seconds = max(0.0, self._max_queue_seconds - elsewhere)
        if self._queue.refuses(caller, _TASK_PIXELS, self._small_files(seconds)):
            self.results["decode", "unknown", "overloaded"] += 1
            raise self._overloaded(_TASK_PIXELS)

    async def decode(self, data: bytes, declared: str | None, options: MediaOptions, caller: str = "") -> Frames:
        """Decode a picture or clip.

        Args:
            data: the whole file.
            declared: the media type that the sender gave, None if it gave none.
            options: size, window and sampling.
            caller: who gets the share of the workers, by key or by connection.

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
            frames = await self._decode(data, media_type, options, caller)
        except ProblemError as problem:
            self.results["decode", container, problem.code] += 1
            raise
        self.results["decode", container, "ok"] += 1
        return frames

    async def encode(
        self, pixels: NDArray[np.uint8], media_type: str, fps: float, quality: int | None = None, caller: str = ""
    ) -> bytes:
        """Encode a result.

        Args:
            pixels: uint8 RGB (T, H, W, 3); T is 1 for a picture.
            media_type: one of `IMAGE_OUTPUTS` or `VIDEO_OUTPUTS` of `media.identify`.
            fps: frames per second of a clip; a picture has none.
            quality: 1..100 for JPEG and WebP, None for the default.
            caller: as `decode`.

        Raises:
            ProblemError: "invalid-options" for what the format does not take, or "overloaded" or "draining".
        """
        container = media_type.split("/")[-1]
        cost = pixels.nbytes // 3 * (_ENCODED_PIXELS if len(pixels) > 1 else 1)
        try:
            file, _ = await self._submit(
                lambda worker, _: worker.encode(pixels, media_type, fps, quality), cost, pixels.nbytes, caller
            )
        except ProblemError as problem:
            self.results["encode", container, problem.code] += 1
            raise
        self.results["encode", container, "ok"] += 1
        return file

    @asynccontextmanager
    async def stream(
        self, pieces: AsyncIterator[bytes], declared: str | None, options: MediaOptions, caller: str = ""
    ) -> AsyncIterator[FrameStream]:
        """Decode a clip while its pieces arrive, in a process of its own that ends with the context.

        Each of its steps takes its turn among the tasks, so that it gives way to what is shorter.

        Args:
            pieces: of the file.
            declared, options, caller: as `decode`.

        Raises:
            ProblemError: as `decode`, at once or in the context.
        """
        container = "unknown"
        decoder: ClipDecoder | None = None
        try:
            try:
                head, pieces = await with_head(pieces)
                media_type = identify(head, declared)
                container = media_type.split("/")[1]
                check_streams(media_type, options)
            except MediaError as error:
                raise ProblemError.of(error) from error
            assert self._directory is not None
            decoder = await start_decoder(self.limits, self._directory.path, self._allow_weak, _SLOW_NICENESS)
            decoder.begin(media_type, options)
            yield FrameStream(decoder, partial(self._turn, caller), pieces, self._lost)
            self.results["stream", container, "ok"] += 1
        except ProblemError as problem:
            self.results["stream", container, problem.code] += 1
            raise
        finally:
            if decoder is not None:
                decoder.kill()
                await asyncio.get_running_loop().run_in_executor(None, decoder.reap)

    async def _turn(self, caller: str, step: Callable[[], Stop], cancel: Callable[[], None]) -> Stop:
        """Run a step of a stream in the place of a task, at the price of the time that it takes."""
        cost = _TASK_PIXELS + _FAST_PIXELS  # never in a lane of cheap tasks
        task: Task[Stop] = Task(lambda lane, loss: step(), lambda lane: cancel(), measured=False)
        return await self._run(task, caller, cost, 0)

    async def _decode(self, data: bytes, media_type: str, options: MediaOptions, caller: str) -> Frames:
        """Decode under an estimate of the cost, and once more by the worker's count if that is larger."""

        def work(worker: WorkerProcess, max_pixels: int) -> Frames:
            return worker.decode(data, media_type, options, max_pixels)

        def begin(lane: Lane, done: Done) -> bool:
            return lane.begin(data, media_type, options, self._max_pixels(lane), done)

        cost = decoded_pixels(data, media_type, options, self.limits)
        is_still = media_type in IMAGE_TYPES and not options.animated
        is_small = max(cost, math.prod(options.size or (0,))) <= _LOOP_PIXELS
        begin = begin if is_still and is_small else never
        try:
            frames, waited = await self._submit(work, cost, len(data), caller, data, begin)
        except ProblemError as problem:
            if problem.code != "decode-budget" or problem.limit != _FAST_PIXELS or problem.actual is None:
                raise
            cost = max(min(int(problem.actual), self.limits.decoded_pixels), _FAST_PIXELS)
            frames, waited = await self._submit(work, cost, len(data), caller, data)
        return replace(frames, seconds=frames.seconds + waited)

    async def _submit(
        self,
        work: Work[Result],
        pixels: int,
        size: int,
        caller: str,
        data: bytes | None = None,
        begin: Begin = never,
    ) -> tuple[Result, float]:
        """Return the result of a task, and the seconds that it waited for a worker."""

        def run(lane: Lane, loss: Lost | None) -> Result:
            return lane.run(lambda worker: work(worker, self._max_pixels(lane)), data, loss)

        task = Task(run, Lane.abandon, begin=begin)
        return await self._run(task, caller, _TASK_PIXELS + pixels, size), task.waited

    def _max_pixels(self, lane: Lane) -> int:
        return int(min(lane.max_cost, self.limits.decoded_pixels))

    async def _run(self, task: Task[Result], caller: str, cost: int, size: int) -> Result:
        """Wait for the turn of a task, and for its result."""
        if self._stopping:
            raise ProblemError("draining", "The service is shutting down.")
        task.queued = self._clock()
        ticket = Ticket(task, caller, cost, size, time.time())
        for dropped in self._queue.push(ticket):
            dropped.task.fail(self._overloaded(dropped.cost))
        self._dispatch()
        try:
            return await task.result
        except asyncio.CancelledError:
            self._queue.remove(ticket)
            if task.lane is not None:
                task.cancel(task.lane)
            raise

    def _dispatch(self) -> None:
        """Give tickets to idle lanes, the fast ones first, without a turn of the loop: it may be busy with refusals."""
        for lane in sorted(self._idle, key=lambda lane: lane.max_cost):
            ticket = self._queue.pop(lane.max_cost)
            if ticket is not None:
                self._idle.remove(lane)
                lane.abandoned = False
                ticket.task.waited = self._clock() - ticket.task.queued
                ticket.task.start(lane, self._threads, partial(self._ended, ticket, lane, self._clock()))

    def _ended(self, ticket: Ticket[Task[Any]], lane: Lane, started: float, outcome: Any) -> None:
        """Give the lane to the next ticket, and the result or the error to whoever waits for it."""
        task, seconds = ticket.task, self._clock() - started
        task.lane = None
        self._release(lane)
        # A file that took longer than its pixels do is paid for by its caller; one that was refused costs little.
        self._queue.charge(ticket.caller, seconds * (self._rate.per_second or 0.0) - ticket.cost)
        if isinstance(outcome, BaseException):
            task.fail(outcome)
        else:
            if task.measured:
                self._rate.add(ticket.cost, seconds)
            task.finish(outcome)

    def _give_back(self, lane: Lane) -> None:
        self._idle.append(lane)
        self._dispatch()

    def _release(self, lane: Lane) -> None:
        """Give a lane back, at once if its process is fit."""
        if self._stopping:
            return
        if lane.is_fit:
            lane.look_ahead(self._starts)
            self._give_back(lane)
        else:
            lane.leave_loop()
            release = asyncio.get_running_loop().create_task(self._refit(lane))
            self._releases.add(release)
            release.add_done_callback(self._releases.discard)

    async def _refit(self, lane: Lane) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._threads, lane.fit)
        except Exception:
            logger.exception("a media worker did not start; the next task tries again")
        finally:
            self._give_back(lane)

    def _overloaded(self, cost: float) -> ProblemError:
        lanes = sum(cost <= lane.max_cost for lane in self._lanes)
        seconds = (self._rate.seconds(self._queue.cost_before(cost) + cost) or 0.0) / max(lanes, 1)
        return ProblemError(
            "overloaded",
            f"{len(self._queue)} files wait for {self.workers} media workers already. "
            f"Those that come before this one take about {seconds:.1f} s.",
            retry_after_seconds=retry_after(seconds),
        )

    def _small_files(self, seconds: float) -> float:
        """Return how many small files the workers take from the queue in that time."""
        pixels = seconds * self.workers * (self._rate.per_second or _EXPECTED_PIXELS)
        return max(_LEAST_QUEUE_PER_WORKER * self.workers, pixels / _TASK_PIXELS)

    def _lost(self, reason: str) -> None:
        with self._lock:
            self.restarts[reason] += 1
