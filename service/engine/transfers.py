"""Copies between the host and a device that go on while the device computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import accumulate, pairwise, starmap
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.inference.graphs import HIGH_PRIORITY
from service.engine.step_clock import StepClock

COPY_THREADS = 4  # one core copies a batch of clips more slowly than the device encodes it
COPIES_AT_ONCE = 3  # batches, of the threads of bulk work
PART_BYTES = 2**20  # worth a thread's visit
ALIGNMENT = 16


class Download:
    """Results on their way to the host.

    Args:
        hosts: page-locked copies, as far as they have come; None stays None.
        held: tensors that the device still reads.
        done: is recorded after the last copy; None on a CPU.
    """

    def __init__(
        self, hosts: Sequence[Tensor | None], held: Sequence[Tensor | None], done: torch.cuda.Event | None
    ) -> None:
        self._hosts, self._held, self._done = hosts, held, done

    def arrays(self) -> list[NDArray[Any] | None]:
        """Wait for the results and return them, once; the memory that they came through is free afterwards."""
        if self._done is not None:
            self._done.synchronize()
        hosts, self._hosts, self._held = self._hosts, (), ()
        arrays = [None if host is None else host.numpy() for host in hosts]
        return arrays if self._done is None else [None if array is None else array.copy() for array in arrays]


class Transfers:
    """One stream for each direction and one for the work between them. A CPU needs none, and nothing is copied.

    Page-locked memory is torch's, which keeps what was freed for the next buffer of that size. Any thread may stage and
    pack; one at a time does the rest.

    Args:
        device: where the work is done.

    Attributes:
        clock: of the copies, and of the work that others time by it.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._cuda = device, device.type == "cuda"
        self.clock = StepClock(self._cuda)
        if self._cuda:
            self._up, self._down = torch.cuda.Stream(device), torch.cuda.Stream(device)
            # as the captured kernels: whole batches go before the steps of a generator
            self._compute = torch.cuda.Stream(device, priority=HIGH_PRIORITY)
            copiers = COPIES_AT_ONCE * (COPY_THREADS - 1)  # which start as they are needed
            self._copiers = ThreadPoolExecutor(copiers, thread_name_prefix="copy")

    def settle(self) -> None:
        """Wait for what other streams have prepared: weights, tables, graphs."""
        if self._cuda:
            torch.cuda.synchronize(self._device)

    def stage(self, arrays: Sequence[NDArray[Any]], dtype: torch.dtype) -> Tensor:
        """Return equal arrays as one batch in the host's memory; nobody reads the arrays afterwards."""
        staged = torch.empty((len(arrays), *arrays[0].shape), dtype=dtype, pin_memory=self._cuda)
        batch = staged.numpy()
        self._in_parts(len(arrays), batch.nbytes, lambda part: np.stack(arrays[part], out=batch[part]))
        return staged

    def pack(self, arrays: Sequence[NDArray[Any]]) -> Tensor:
        """Return arrays of any shapes one after another in the host's memory, uint8, where `starts_of` says."""
        starts = starts_of(arrays)
        staged = torch.empty(starts[-1], dtype=torch.uint8, pin_memory=self._cuda)
        memory = staged.numpy()
        self._in_parts(len(arrays), starts[-1], lambda part: _place(arrays[part], memory, starts[part]))
        return staged

    def _in_parts(self, count: int, nbytes: int, copy: Callable[[slice], object]) -> None:
        """Copy arrays, so many of so many bytes together, by several threads where that is worth their visits."""
        parts = min(COPY_THREADS, count, 1 + nbytes // PART_BYTES) if self._cuda else 1
        first, *others = starmap(slice, pairwise(count * part // parts for part in range(parts + 1)))
        copying = [self._copiers.submit(copy, other) for other in others]
        copy(first)
        for copied in copying:
            copied.result()

    def upload(self, staged: Tensor) -> Tensor:
        """Return a batch on the device, where the work that `computing` encloses waits for it."""
        if not self._cuda:
            return staged
        with torch.cuda.stream(self._up), self.clock.on_device("upload"):
            batch = staged.to(self._device, non_blocking=True)
        self._compute.wait_stream(self._up)
        return batch

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Enclose work on the device."""
        if not self._cuda:
            yield
            return
        with torch.cuda.stream(self._compute):
            yield

    def download(self, batch: Tensor, results: Sequence[Tensor | None], *held: Tensor | None) -> Download:
        """Start to copy the results of a batch to the host.

        Args:
            batch, results: of the work.
            held: what else the work reads on the device.
        """
        if not self._cuda:
            return Download(results, (), None)
        self._down.wait_stream(self._compute)
        with torch.cuda.stream(self._down):
            with self.clock.on_device("download"):
                hosts = [None if result is None else to_host(result) for result in results]
            # a thread that sleeps is woken late, which matters where one item is all that there is to do
            done = torch.cuda.Event(blocking=len(batch) > 1)
            done.record()
        return Download(hosts, (batch, *results, *held), done)


def starts_of(arrays: Sequence[NDArray[Any]]) -> list[int]:
    """Return where each array begins in a packed buffer, and where the last one ends, bytes."""
    sizes = (-(-array.nbytes // ALIGNMENT) * ALIGNMENT for array in arrays)
    return [0, *accumulate(sizes)]


def _place(arrays: Sequence[NDArray[Any]], memory: NDArray[np.uint8], starts: Sequence[int]) -> None:
    for array, start in zip(arrays, starts, strict=True):
        memory[start : start + array.nbytes] = array.reshape(-1).view(np.uint8)


def to_host(result: Tensor) -> Tensor:
    """Begin to copy a tensor of a device to page-locked memory, which is several times as fast as other memory."""
    return torch.empty(result.shape, dtype=result.dtype, pin_memory=True).copy_(result, non_blocking=True)
