"""Chunks of clips in memory that the replicas of a node share.

The state of a clip is several times as large as a chunk of its pixels, and travels there and back with each chunk.
Ray's object store is small, and callers that fill it wait for each other without end. So a call says where the arrays
are. The memory belongs to the ingress: a tokenizer that is lost takes nothing along, and any other of the node goes on.
It is not the link's arena: a state may be larger than its slots, and would keep one for as long as its clip lasts.
"""

from __future__ import annotations

import mmap
import os
import secrets
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.chunks import ChunkInput, ChunkOutput, ClipState
from service.errors import ProblemError
from service.offload import offload

ALIGNMENT = 64
NAME_BYTES = 8


class NotHereError(Exception):
    """The memory is that of another node, or of a process that has ended."""


class Place(NamedTuple):
    """The way to a memory for processes of its node: process id, descriptor there, and a name by which to know it."""

    process: int
    descriptor: int
    name: str


class Form(NamedTuple):
    """An array in a memory: offset in bytes, type and shape."""

    offset: int
    dtype: str
    shape: tuple[int, ...]


Forms = tuple[Form | None, ...]


class Memory:
    """Anonymous memory, empty at first; it goes with the last of its owner and the arrays in it."""

    def __init__(self) -> None:
        name = f"omnitok-{secrets.token_hex(NAME_BYTES)}"
        self.descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
        self.place = Place(os.getpid(), self.descriptor, name)
        weakref.finalize(self, os.close, self.descriptor)


@dataclass(frozen=True)
class PlacedArrays:
    """Arrays in a memory."""

    place: Place
    forms: Forms


@dataclass(frozen=True, eq=False)
class PlacedState(ClipState):
    """A state whose arrays lie in a memory, which it keeps.

    Args:
        memory: of the ingress.
        forms: of the arrays.
    """

    memory: Memory
    forms: Forms


@dataclass(frozen=True)
class PlacedChunk:
    """A `ChunkInput` in memories, and the one for its outcome.

    Args:
        array: the next part of the clip.
        state: arrays of the state, or None.
        frames: of the state.
        final: as of `ChunkInput`.
        out: takes the outcome.
    """

    array: PlacedArrays
    state: PlacedArrays | None
    frames: int
    final: bool
    out: Place


@dataclass(frozen=True)
class PlacedOutput:
    """A `ChunkOutput` in the memory that the chunk named: first its array, then its state, of so many frames."""

    forms: Forms
    frames: int
    queue_ms: float
    compute_ms: float


class ChunkPlaces:
    """The ingress' side of a chunk.

    Args:
        chunk: to be done.
    """

    def __init__(self, chunk: ChunkInput) -> None:
        self._chunk, self._memory = chunk, Memory()
        state = chunk.state
        form, *forms = write(self._memory.descriptor, _unplaced(chunk))
        self._array = PlacedArrays(self._memory.place, (form,))
        self._state = None if state is None else PlacedArrays(self._memory.place, tuple(forms))
        if isinstance(state, PlacedState):
            self._state = PlacedArrays(state.memory.place, state.forms)

    def asking(self, out: Memory) -> PlacedChunk:
        """Return the chunk as a tokenizer gets it; each has a memory of its own for the outcome."""
        frames = 0 if self._chunk.state is None else self._chunk.state.frames
        return PlacedChunk(self._array, self._state, frames, self._chunk.final, out.place)


async def place(chunk: ChunkInput) -> ChunkPlaces:
    """Write a chunk to memory, a large one on a thread."""
    size = sum(array.nbytes for array in _unplaced(chunk) if array is not None)
    return await offload(size, ChunkPlaces, chunk)


def _unplaced(chunk: ChunkInput) -> Sequence[NDArray[Any] | None]:
    state = chunk.state
    if state is None or isinstance(state, PlacedState):
        return [chunk.array]
    return [chunk.array, *state.arrays]  # it came from another node


def outcome(out: Memory, answer: PlacedOutput) -> ChunkOutput:
    """Return what a tokenizer wrote."""
    array, *arrays = read(out.descriptor, answer.forms)
    assert array is not None
    state = PlacedState(answer.frames, tuple(arrays), out, answer.forms[1:])
    return ChunkOutput(array, state, answer.queue_ms, answer.compute_ms)


def load(chunk: PlacedChunk) -> ChunkInput:
    """Return a chunk on the tokenizer's side. Its arrays keep their memory.

    Raises:
        NotHereError: they are not in the memory of this node.
    """
    [array] = _arrays(chunk.array)
    assert array is not None
    state = None if chunk.state is None else ClipState(chunk.frames, tuple(_arrays(chunk.state)))
    return ChunkInput(array, state, chunk.final)


def check_state(state: ClipState, max_bytes: int) -> None:
    """Check that a state is not too large to keep and to send.

    Raises:
        ProblemError: `too-many-tokens`, if it has more than `max_bytes`.
    """
    size = sum(array.nbytes for array in state.arrays if array is not None)
    if size > max_bytes:
        detail = (
            f"The network carries {size} bytes from one chunk of a clip of this size to the next; "
            f"the limit stream_state_bytes is {max_bytes}. Use a smaller size, or fewer frames where the bundle has "
            "no temporal_window."
        )
        raise ProblemError("too-many-tokens", detail, limit=max_bytes, actual=size)


def store(out: Place, output: ChunkOutput, max_bytes: int) -> PlacedOutput:
    """Write an outcome where the ingress finds it.

    It opens the memory by itself: in a thread it goes on after its caller was cancelled, and a descriptor of the
    caller's would be that of another file by then.

    Raises:
        NotHereError: the memory is not of this node, or has gone.
        ProblemError: as `check_state`.
    """
    check_state(output.state, max_bytes)
    arrays = (output.array, *output.state.arrays)
    with _opened(out) as descriptor:
        return PlacedOutput(write(descriptor, arrays), output.state.frames, output.queue_ms, output.compute_ms)


def write(descriptor: int, arrays: Sequence[NDArray[Any] | None]) -> Forms:
    """Write arrays to the start of a memory, one after the other."""
    forms: list[Form | None] = []
    offset = 0
    for array in arrays:
        if array is None:
            forms.append(None)
            continue
        forms.append(Form(offset, array.dtype.str, array.shape))
        rest = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        while rest.nbytes:
            count = os.pwrite(descriptor, rest, offset)
            rest, offset = rest[count:], offset + count
        offset += -offset % ALIGNMENT
    return tuple(forms)


def read(descriptor: int, forms: Forms) -> list[NDArray[Any] | None]:
    """Return the arrays of a memory without a copy. Who changes them has pages of their own."""
    size = os.fstat(descriptor).st_size
    flags, protection = mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE
    memory = mmap.mmap(descriptor, size, flags, protection) if size else bytearray()
    return [form and np.ndarray(form.shape, form.dtype, memory, min(form.offset, size)) for form in forms]


def _arrays(placed: PlacedArrays) -> list[NDArray[Any] | None]:
    with _opened(placed.place) as descriptor:
        return read(descriptor, placed.forms)


@contextmanager
def _opened(place: Place) -> Iterator[int]:
    path, target = f"/proc/{place.process}/fd/{place.descriptor}", f"/memfd:{place.name} (deleted)"
    try:
        if os.readlink(path) != target:
            raise NotHereError
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise NotHereError from error
    try:
        # Once more, of what is open: in between its owner may have closed it, and another file may have the number.
        if os.readlink(f"/proc/self/fd/{descriptor}") != target:
            raise NotHereError
        yield descriptor
    finally:
        os.close(descriptor)
