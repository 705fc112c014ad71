"""Processes that read items for one tokenizer: whoever crashes is replaced, and the item that did it is named."""

from __future__ import annotations

import json
import math
import mmap
import os
import queue
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import service
from media.kinds import Kind
from model.codes.info import EncodingOptions
from service.bulk.decoder import (
    ALIGNMENT,
    Failed,
    Job,
    OpenedVideo,
    Part,
    PartJob,
    Placed,
    Read,
    Slot,
    VideoJob,
    progress,
)
from service.bulk.sources import UNLABELLED, Item

START_SECONDS = 60.0
JOBS_SENT = 2  # or a process would wait after each job until a thread of this one gets the interpreter's lock
ITEM_SECONDS = 120.0  # a file that takes longer to read is damaged, or the disk is gone

_BOOT = """\
import json, sys
channel, memory, size, path, options, leave_resize = map(json.loads, sys.argv[1:])
sys.path[:] = path
from service.bulk.decoder import main
main(channel, memory, size, options, leave_resize)
"""


class LostError(Exception):
    """A process that ended or was ended in the middle of a job.

    Args:
        reason: a sentence, for the item that it was at.
        retry: as of `Failed`.
    """

    def __init__(self, reason: str, retry: bool = True) -> None:
        super().__init__(reason)
        self.failed = Failed(reason, retry)


class Chunk:
    """Items that were read, whose pixels are in a slot until it is released.

    Attributes:
        items: `Read` or `Failed`, in the order of the job.
    """

    def __init__(self, items: list[Read | Failed], release: Callable[[], None]) -> None:
        self.items, self._release = items, release

    def release(self) -> None:
        """Give the slot back; nobody reads the pixels afterwards."""
        self._release()


class Memory:
    """Memory that is shared with all processes, in slots of one size.

    Args:
        slots: number of them.
        slot_bytes: pixels of each.
    """

    def __init__(self, slots: int, slot_bytes: int) -> None:
        self.slot_bytes = -(-(ALIGNMENT + slot_bytes) // mmap.PAGESIZE) * mmap.PAGESIZE
        self.size = slots * self.slot_bytes
        self.descriptor = os.memfd_create("omnitok-pixels")
        os.ftruncate(self.descriptor, self.size)
        self.map = mmap.mmap(self.descriptor, self.size)
        self._free: queue.LifoQueue[Slot] = queue.LifoQueue()  # memory that was used last is mapped already
        for index in range(slots):
            self._free.put(Slot(index * self.slot_bytes, self.slot_bytes))

    def take(self, wait: bool = True) -> Slot | None:
        """Return a free slot; None if there is none and the caller does not wait."""
        with suppress(queue.Empty):
            return self._free.get(block=wait)
        return None

    def give(self, slot: Slot) -> None:
        """Return a slot."""
        self._free.put(slot)

    def view(self, placed: Any) -> NDArray[np.uint8]:
        """Return pixels that are in a slot, or that came by themselves."""
        if not isinstance(placed, Placed):
            return placed
        count = math.prod(placed.shape)
        return np.frombuffer(self.map, np.uint8, count, placed.start).reshape(placed.shape)


class DecoderProcess:
    """One process, used by one thread.

    Args:
        memory: shared with it.
        options: the pixels that are wanted.
        leave_resize: as of `reading.read_views`.

    Raises:
        RuntimeError: it does not start.
    """

    def __init__(self, memory: Memory, options: EncodingOptions, leave_resize: bool) -> None:
        ours, theirs = socket.socketpair()
        home = Path(next(iter(service.__path__))).resolve().parent
        path = [str(home), *(os.path.abspath(entry) for entry in sys.path)]
        arguments = [theirs.fileno(), memory.descriptor, memory.size, path, asdict(options), leave_resize]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _BOOT, *map(json.dumps, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno(), memory.descriptor],
            env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,  # an interrupt of the terminal is for the command
        )
        theirs.close()
        self._connection = Connection(ours.detach())
        if not self._connection.poll(START_SECONDS) or self._receive() != "ready":
            self.close()
            raise RuntimeError("A process that reads files did not start.")

    @property
    def alive(self) -> bool:
        """Return whether the process runs."""
        return self._process.poll() is None

    def cpu_seconds(self) -> float:
        """Return its CPU time in user and system mode."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")

    def send(self, job: Any) -> None:
        """Send a job; if the process has crashed, `receive` says so."""
        with suppress(OSError):
            self._connection.send(job)

    def receive(self, progress: NDArray[np.int64] | None = None) -> Any:
        """Return the next answer.

        Args:
            progress: of the items that the answer is for; None for one item.

        Raises:
            LostError: the process crashed, or read one item for longer than `ITEM_SECONDS` and was ended.
        """
        seen = 0
        while not self._connection.poll(ITEM_SECONDS):
            now = 0 if progress is None else int(progress[0])
            if now == seen:
                self.close()
                raise LostError(f"Reading takes longer than {ITEM_SECONDS:g} s.")
            seen = now
        return self._receive()

    def close(self) -> str:
        """End the process; return a reason for the item that it was at, if that has ended it before."""
        self._process.kill()
        code = self._process.wait()
        self._connection.close()
        return f"The file crashed the decoder (exit code {code})."

    def _receive(self) -> Any:
        try:
            return self._connection.recv()
        except (EOFError, OSError):
            raise LostError(self.close()) from None


class _Task:
    """A chunk of items to read.

    Args:
        items, kind, leave_jpegs: as of `Job`.
    """

    def __init__(self, items: Sequence[Item], kind: Kind, leave_jpegs: bool) -> None:
        self.chunk: Future[Chunk] = Future()
        self._items, self._kind, self._leave_jpegs = items, kind, leave_jpegs
        self._answers: dict[int, Read | Failed] = {}

    def begin(self, memory: Memory, slot: Slot) -> None:
        """Own a slot."""
        self._memory, self._slot = memory, slot
        self.progress = progress(memory.map, slot)
        self.progress[0] = 0

    def job(self) -> Job:
        """Return what is left to do, without what a process need not know."""
        items = [self._items[place] for place in self._places()]
        # A message that fits into the socket's buffer is sent at once, even while the process sends an answer.
        short = [Item("", UNLABELLED, item.file, item.size, 0, item.start) for item in items]
        return Job(short, self._kind, self._slot, self._leave_jpegs)

    def answer(self, answers: Sequence[Read | Failed]) -> None:
        """Take the answers to a job, which are the last ones."""
        self._answers |= zip(self._places(), answers, strict=True)
        self._finish()

    def lose(self, failed: Failed) -> bool:
        """Name the item that ended a process; return whether others are left."""
        places = self._places()
        at = self.progress[0] % len(places)  # a process that crashes may have written anything
        self._answers[places[at]] = failed
        self.progress[0] = 0  # the next process may end before it takes a job
        if self._places():
            return True
        self._finish()
        return False

    def fail(self, error: Exception) -> None:
        """Give up the task and its slot."""
        self._memory.give(self._slot)
        self.chunk.set_exception(error)

    def _finish(self) -> None:
        memory, slot = self._memory, self._slot
        found = [self._answers[place] for place in range(len(self._items))]
        mapped = [self._mapped(answer) if isinstance(answer, Read) else answer for answer in found]
        self.chunk.set_result(Chunk(mapped, lambda: memory.give(slot)))

    def _mapped(self, read: Read) -> Read:
        return Read(read.digest, [view._replace(pixels=self._memory.view(view.pixels)) for view in read.views])

    def _places(self) -> list[int]:
        return [place for place in range(len(self._items)) if place not in self._answers]


class _Entry(NamedTuple):
    """A task in the queue; None ends the threads."""

    order: float
    number: int
    task: _Task | None


class DecoderPool:
    """A pool of processes that read chunks of items.

    Args:
        processes: number of them.
        options: the pixels that are wanted.
        slots: chunks that may be in memory at a time.
        slot_bytes: of each.
        leave_resize: as of `reading.read_views`.
    """

    def __init__(
        self, processes: int, options: EncodingOptions, slots: int, slot_bytes: int, leave_resize: bool = False
    ) -> None:
        self.memory, self._options = Memory(slots + processes, slot_bytes), options
        self._leave_resize = leave_resize
        self._started: list[DecoderProcess] = []
        self._submitted = count()
        self._tasks: queue.PriorityQueue[_Entry] = queue.PriorityQueue()
        self._threads = [threading.Thread(target=self._serve, name="read", daemon=True) for _ in range(processes)]
        for thread in self._threads:
            thread.start()

    def submit(self, items: Sequence[Item], kind: Kind, order: int = 0, leave_jpegs: bool = False) -> Future[Chunk]:
        """Return the chunk to come; those of a lower order are read first, then those submitted first."""
        task = _Task(items, kind, leave_jpegs)
        self._tasks.put(_Entry(order, next(self._submitted), task))
        return task.chunk

    def cpu_seconds(self) -> float:
        """Return the CPU time of the processes that run."""
        return sum(process.cpu_seconds() for process in self._started if process.alive)

    def close(self) -> None:
        """End all processes; what they have not begun is cancelled."""
        with suppress(queue.Empty):
            while True:
                if (task := self._tasks.get_nowait().task) is not None:
                    task.chunk.cancel()
        self._tasks.put(_Entry(math.inf, 0, None))
        for thread in self._threads:
            thread.join()
        for process in self._started:
            if process.alive:
                process.close()

    def start_process(self) -> DecoderProcess:
        """Start a process; `close` ends it."""
        process = DecoderProcess(self.memory, self._options, self._leave_resize)
        self._started.append(process)
        return process

    def _serve(self) -> None:
        """Keep a process busy until the pool is closed."""
        process: DecoderProcess | None = None
        sent: deque[_Task] = deque()
        while True:
            fresh: list[_Task] = []
            while len(sent) < JOBS_SENT and (task := self._next(wait=not sent)):
                sent.append(task)
                fresh.append(task)
            if not sent:
                return
            try:
                if process is None or not process.alive:
                    process, fresh = self.start_process(), [*sent]
                for task in fresh:
                    process.send(task.job())
                sent[0].answer(process.receive(sent[0].progress))
                sent.popleft()
            except LostError as lost:
                if not sent[0].lose(lost.failed):
                    sent.popleft()
            except Exception as error:  # no process starts
                for task in sent:
                    task.fail(error)
                sent.clear()

    def _next(self, wait: bool) -> _Task | None:
        """Return a task to begin; None if the pool is closed, or has no task or memory for one who does not wait."""
        slot = self.memory.take(wait)
        if slot is None:
            return None
        with suppress(queue.Empty):
            entry = self._tasks.get(wait)
            if entry.task is not None:
                entry.task.begin(self.memory, slot)
                return entry.task
            self._tasks.put(entry)  # for the other threads
        self.memory.give(slot)
        return None


class VideoReader:
    """One clip that is read part by part.

    Args:
        process: of its own while it is read.
        memory: shared with it.
        item: the clip.

    Raises:
        LostError: the file cannot be read, and why.
    """

    def __init__(self, process: DecoderProcess, memory: Memory, item: Item) -> None:
        self._process, self._memory = process, memory
        self.digest = self._ask(VideoJob(item), OpenedVideo).digest
        self.part: Part | None = None

    def read(self, frames: int) -> NDArray[np.uint8]:
        """Return the next frames, uint8 RGB (n, H, W, 3), fewer at the end alone.

        Raises:
            LostError: the file cannot be read any further, and why.
        """
        slot = self._memory.take()
        assert slot is not None
        try:
            self.part = self._ask(PartJob(frames, slot), Part)
            return self._memory.view(self.part.pixels).copy()
        finally:
            self._memory.give(slot)

    def _ask(self, job: Any, kind: type) -> Any:
        self._process.send(job)
        answer = self._process.receive()
        if isinstance(answer, Failed):
            raise LostError(answer.reason, answer.retry)
        assert isinstance(answer, kind)
        return answer
