"""JPEGs decoded in disposable processes: files in shared memory in, pixels in memory of the device out."""

from __future__ import annotations

import json
import math
import mmap
import os
import pickle
import queue
import socket
import subprocess
import sys
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import accumulate
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import service
from service.engine.jpegs import (
    Codec,
    File,
    NoJpegEnginesError,
    NvImageCodec,
    SourceJpeg,
    check_pixels,
    wait_for_device,
)
from service.engine.pictures import COLOURS, DevicePixels, SourcePicture
from service.sandbox.restrictions import drop_rights

PROCESSES = 3  # more would take time of the GPU from the encoder, one at a time
START_SECONDS = 120.0
BATCH_SECONDS = 60.0
ANSWER_BYTES = 2**12
DONE = "done"

_BOOT = """\
import json, sys
channel, files, size, path = map(json.loads, sys.argv[1:])
sys.path[:] = path
from service.engine.jpeg_process import main
main(channel, files, size)
"""


class JpegProcess:
    """A process that decodes batches, for one thread at a time.

    Args:
        descriptor, size: of the memory that files are in.
        slots: memory of the device for the pixels of each batch, uint8 (S, n), which the process writes.
        codec: makes what decodes, in the process.
    """

    def __init__(self, descriptor: int, size: int, slots: Tensor, codec: Callable[[], Codec]) -> None:
        ours, theirs = socket.socketpair()
        home = Path(next(iter(service.__path__))).resolve().parent
        path = [str(home), *(os.path.abspath(entry) for entry in sys.path)]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _BOOT, *map(json.dumps, [theirs.fileno(), descriptor, size, path])],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,  # the library has lines about each plugin and each damaged file
            pass_fds=[theirs.fileno(), descriptor],
            env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,  # an interrupt of the terminal is for the command
        )
        theirs.close()
        self._connection = Connection(ours.detach())
        with suppress(OSError):
            self._connection.send_bytes(bytes(ForkingPickler.dumps((codec, slots))))

    def wait(self) -> None:
        """Wait until it can decode.

        Raises:
            NoJpegEnginesError: it cannot decode here.
        """
        answer = self._receive(START_SECONDS)
        if answer != DONE:
            self.close()
            raise NoJpegEnginesError(answer or "The process that decodes JPEGs did not start. Use --jpeg cpu.")

    def decode(self, slot: int, files: Sequence[tuple[int, int] | bytes], sizes: Sequence[tuple[int, int]]) -> bool:
        """Decode files, one after the other, into a slot; return whether all have the sizes that are expected.

        Args:
            slot: number of it.
            files: each at (start, size) of the shared memory, or given whole.
            sizes: (height, width) of each.
        """
        with suppress(OSError):
            self._connection.send((slot, files, sizes))
        return self._receive(BATCH_SECONDS) == DONE

    @property
    def alive(self) -> bool:
        """Return whether the process runs."""
        return self._process.poll() is None

    def cpu_seconds(self) -> float:
        """Return its CPU time in user and system mode."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        self._connection.close()

    def _receive(self, seconds: float) -> str:
        """Return an answer; nothing, and no process, if there is none."""
        with suppress(EOFError, OSError):
            if self._connection.poll(seconds):
                return self._connection.recv_bytes(ANSWER_BYTES).decode(errors="replace")
        self.close()
        return ""


class JpegProcesses:
    """Processes that decode; whoever crashes is replaced, and its batch is refused.

    Args:
        descriptor, memory: that files are in.
        batches: whose pixels the caller may hold at a time.
        batch_bytes: pixels of each.
        device: of the pixels.
        codec: as of `JpegProcess`.

    Raises:
        NoJpegEnginesError: they cannot decode here.
    """

    def __init__(
        self,
        descriptor: int,
        memory: mmap.mmap,
        batches: int,
        batch_bytes: int,
        device: str = "cuda",
        codec: Callable[[], Codec] = NvImageCodec,
    ) -> None:
        self._base, self._size = np.frombuffer(memory, np.uint8).__array_interface__["data"][0], len(memory)
        slots = batches + PROCESSES
        self._slots = torch.empty((slots, batch_bytes), dtype=torch.uint8, device=device)
        self._start = lambda: JpegProcess(descriptor, self._size, self._slots, codec)
        self._free: queue.LifoQueue[int] = queue.LifoQueue()
        for slot in range(slots):
            self._free.put(slot)
        self._processes: queue.SimpleQueue[JpegProcess] = queue.SimpleQueue()
        self._started = [self._start() for _ in range(PROCESSES)]
        try:
            for process in self._started:
                process.wait()
                self._processes.put(process)
        except NoJpegEnginesError:
            self.close()
            raise

    def decode(self, jpegs: Sequence[SourceJpeg]) -> list[SourcePicture] | None:
        """Decode JPEGs into one memory of the device; None if any is refused."""
        unique = list({id(jpeg.data): jpeg for jpeg in jpegs}.values())  # a mirror image shares those of its picture
        ends = accumulate((COLOURS * math.prod(jpeg.size) for jpeg in unique), initial=0)
        starts = {id(jpeg.data): start for jpeg, start in zip(unique, ends, strict=False)}
        slot = self._free.get()
        memory = self._slots[slot]
        weakref.finalize(memory, self._free.put, slot)
        process = self._processes.get()
        try:
            if not process.alive:
                process = self._start()
                self._started.append(process)
                process.wait()
            if not process.decode(slot, [self._place(jpeg.data) for jpeg in unique], [jpeg.size for jpeg in unique]):
                return None
        finally:
            self._processes.put(process)
        return [
            SourcePicture(DevicePixels(memory, starts[id(data)], (*size, COLOURS)), resampling, flip)
            for data, size, resampling, flip in jpegs
        ]

    def cpu_seconds(self) -> float:
        """Return the CPU time of the processes that run."""
        return sum(process.cpu_seconds() for process in self._started if process.alive)

    def close(self) -> None:
        """End all processes."""
        for process in self._started:
            if process.alive:
                process.close()

    def _place(self, data: File) -> tuple[int, int] | bytes:
        start = data.__array_interface__["data"][0] - self._base
        return (start, data.nbytes) if 0 <= start < self._size else data.tobytes()


def main(channel: int, files: int, size: int) -> None:
    """Decode batches until the channel closes; any error ends the process.

    Args:
        channel: descriptor of the inherited socket.
        files: descriptor of the memory that files are in.
        size: of that memory, bytes.
    """
    drop_rights()  # before CUDA, whose threads would keep theirs
    connection, memory = Connection(channel), mmap.mmap(files, size, prot=mmap.PROT_READ)
    try:
        make, slots = pickle.loads(connection.recv_bytes())
        codec = make()
        check_pixels(codec)
    except Exception as error:
        text = str(error) if isinstance(error, NoJpegEnginesError) else f"No JPEG is decoded: {error}. Use --jpeg cpu."
        connection.send_bytes(text.encode()[:ANSWER_BYTES])
        return
    connection.send_bytes(DONE.encode())
    with suppress(EOFError, OSError):
        while True:
            slot, wanted, sizes = connection.recv()
            decoded = codec([_file(memory, one) for one in wanted])
            connection.send_bytes(_store(decoded, sizes, slots[slot]).encode())


def _file(memory: mmap.mmap, place: tuple[int, int] | bytes) -> File:
    if isinstance(place, bytes):
        return np.frombuffer(place, np.uint8)
    start, count = place
    return np.frombuffer(memory, np.uint8, count, start)


def _store(decoded: Sequence[Tensor | None], sizes: Sequence[tuple[int, int]], slot: Tensor) -> str:
    """Copy pixels (H, W, 3) into a memory of the device, one after the other, if they have these sizes."""
    kept = [pixels for pixels in decoded if pixels is not None]
    if [tuple(pixels.shape) for pixels in kept] != [(*size, COLOURS) for size in sizes]:
        return "refused"
    torch.cat([pixels.flatten() for pixels in kept], out=slot[: sum(pixels.numel() for pixels in kept)])
    if slot.is_cuda:
        wait_for_device()
    return DONE
