"""The decode step's Gluon kernel run on a CPU: its own source, with torch in the place of Gluon.

Each program is a thread, and one runs at a time: at every wait a random other one may take over. Copies into shared
memory land late and in any order, and what they overwrite is NaN from their start. Every access to memory that programs
share is checked against those of all others: two that conflict must have a barrier of the grid between them.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from types import FunctionType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kernels.decode_step import gluon_attention, gluon_barrier, gluon_kernels
from kernels.decode_step.reference import FLAGS

SHARED = "x", "cache", "residual", "qkv", "hidden", "parts", "masses", "logits"
POISONED = "residual", "qkv", "hidden", "parts", "masses", "logits"


class RaceError(AssertionError):
    """Two accesses without a barrier of the grid between them."""


class Memory:
    """A tensor in global memory, and who touched each element.

    An access before a program's arrival number n precedes every access after another program's wait number n.
    """

    def __init__(self, name: str, data: Tensor, programs: int) -> None:
        self.name, self.data = name, data.view(-1)
        self.tracked = name in SHARED
        if self.tracked:
            self.writer = np.full(data.numel(), -1)
            self.written = np.full(data.numel(), -1)  # the writer's next arrival
            self.read = np.full((programs, data.numel()), -1)  # each program's next arrival

    def check(self, program: Program, index: np.ndarray, write: bool) -> None:
        """Raise if others' accesses to these elements are not over, then note this one."""
        if not self.tracked or program.launch.failed:
            return
        foreign = (self.writer[index] >= 0) & (self.writer[index] != program.number)
        late = foreign & (self.written[index] > program.waits)
        if write:
            readers = np.delete(self.read[:, index], program.number, axis=0)
            late |= (readers > program.waits).any(0)
            self.writer[index], self.written[index] = program.number, program.arrivals + 1
        else:
            self.read[program.number, index] = program.arrivals + 1
        if late.any():
            raise RaceError(
                f"{self.name}: program {program.number} after {program.waits} waits, elements {index[late][:4]}"
            )


class Pointer:
    """Addresses of elements: a memory and offsets."""

    def __init__(self, memory: Memory, offset: Any = 0) -> None:
        self.memory, self.offset = memory, offset
        self.dtype = SimpleNamespace(element_ty=memory.data.dtype)

    def __add__(self, other: Any) -> Pointer:
        return Pointer(self.memory, self.offset + other)


class Barrier:
    """A barrier in shared memory that one arrival and the bytes it expects complete."""

    def __init__(self) -> None:
        self.phase, self.expected, self.copied = 0, -1, 0

    def advance(self, copied: int = 0) -> None:
        """Count bytes, and complete the phase if they are all there."""
        self.copied += copied
        assert self.expected < 0 or self.copied <= self.expected
        if self.copied == self.expected:
            self.phase, self.expected, self.copied = self.phase + 1, -1, 0


class Slots(list):
    """Memory on a multiprocessor, in slots of tensors or barriers."""

    def index(self, number: Any) -> Any:
        """Return one slot."""
        return self[int(number)]


class Slot:
    """A tensor in shared memory."""

    def __init__(self, shape: list[int], dtype: torch.dtype) -> None:
        self.data = torch.full(shape, torch.nan, dtype=dtype)

    def load(self, layout: Any) -> Tensor:
        """Return its elements."""
        return self.data.clone()

    def slice(self, start: int, length: int) -> Slot:
        """Return a part of it."""
        part = Slot([], self.data.dtype)
        part.data = self.data[start : start + length]
        return part

    def store(self, value: Tensor) -> None:
        """Replace its elements."""
        self.data = value.clone()


class Program:
    """One program of a launch, in a thread that runs when it has the baton."""

    def __init__(self, launch: Launch, number: int) -> None:
        self.launch, self.number = launch, number
        self.arrivals = self.waits = 0
        self.copies: list[Callable[[], None]] = []
        self.baton = threading.Semaphore(0)
        self.over = False


class Launch:
    """A launch of the kernel by the programs that are not `missing`."""

    def __init__(self, rng: random.Random, programs: int, missing: frozenset[int]) -> None:
        self.rng = rng
        self.error: BaseException | None = None
        self.failed = False  # a program has given up waiting
        self.present = [Program(self, number) for number in range(programs) if number not in missing]
        self.local = threading.local()
        self.end = threading.Semaphore(0)

    @property
    def current(self) -> Program:
        """Return the program of this thread."""
        return self.local.program

    def run(self, body: Callable[[], None]) -> None:
        """Run every program to its end; raise the first error."""

        inference = torch.is_inference_mode_enabled()  # of this thread alone

        def main(program: Program) -> None:
            self.local.program = program
            program.baton.acquire()
            try:
                if self.error is None:
                    with torch.inference_mode(inference):
                        body()
            except BaseException as error:
                self.error = self.error or error
            program.over = True
            rest = [other for other in self.present if not other.over]
            (self.rng.choice(rest).baton if rest else self.end).release()

        threads = [threading.Thread(target=main, args=(program,), daemon=True) for program in self.present]
        for thread in threads:
            thread.start()
        self.rng.choice(self.present).baton.release()
        self.end.acquire()
        for thread in threads:
            thread.join()
        if self.error is not None:
            raise self.error

    def switch(self) -> None:
        """Let a random program go on."""
        program = self.current
        following = self.rng.choice([other for other in self.present if not other.over])
        if following is not program:
            following.baton.release()
            program.baton.acquire()
        if self.error is not None:
            raise SystemExit


def _tensor(x: Any) -> Tensor:
    return x if isinstance(x, Tensor) else torch.tensor(x)


class EmulatedKernel:
    """A stand-in for the compiled kernel: `kernel[(programs,)](...)` runs it.

    Args:
        seed: of the schedule.
        missing: programs that never start.
        skipped: a barrier of the grid, counted from 1, at which no program waits.
    """

    def __init__(self, seed: int, missing: frozenset[int] = frozenset(), skipped: int = 0) -> None:
        self.seed, self.missing, self.skipped = seed, missing, skipped
        self.polls = 0  # of all programs

    def __getitem__(self, grid: tuple[int]) -> Callable[..., None]:
        def run(*args: Any, num_warps: int, launch_cooperative_grid: bool, **constants: Any) -> None:
            launch = Launch(random.Random(self.seed), grid[0], self.missing)
            kernel = gluon_kernels.decode_step_kernel.fn
            names = kernel.__code__.co_varnames
            given = dict(zip(names, args, strict=False)) | constants
            for name, value in given.items():
                if name in POISONED:
                    value.fill_(torch.nan)
                if isinstance(value, Tensor):
                    given[name] = Pointer(Memory(name, value, grid[0]))
                elif name in ("SLOTS", "S"):
                    given[name] = torch.tensor(value)
                elif name in ("weights", "biases"):
                    kind = SimpleNamespace(primitive_bitwidth=8 * value.base.element_size(), torch=value.base.dtype)
                    block = SimpleNamespace(shape=value.block_shape)
                    given[name] = SimpleNamespace(block_type=block, dtype=kind, layout=None, data=value.base)
            scope = self._scope(launch)
            launch.run(lambda: scope["decode_step_kernel"](**given))

        return run

    def _scope(self, launch: Launch) -> dict[str, Any]:
        """Return the kernel module's names with torch behind them."""
        scope: dict[str, Any] = {}
        modules = gluon_barrier, gluon_attention, gluon_kernels
        for name, value in (item for module in modules for item in vars(module).items()):
            if hasattr(value, "fn"):
                scope[name] = FunctionType(value.fn.__code__, scope, name)
            elif type(value).__name__ == "constexpr":
                scope[name] = value.value
        scope |= self._barriers(launch) | {
            "gl": _language(launch),
            "mbarrier": SimpleNamespace(
                MBarrierLayout=lambda: None, init=lambda *args, **kwargs: None,
                expect=_expect, wait=lambda barrier, parity: _wait_for_copies(launch, barrier, parity),
            ),
            "tma": SimpleNamespace(async_copy_global_to_shared=lambda *args, **kw: _copy(launch, *args, **kw)),
            "fence_async_shared": lambda: None,
            "debug_barrier": lambda: None,
        }  # fmt: skip
        return scope

    def _barriers(self, launch: Launch) -> dict[str, Any]:
        """Return the barrier of the grid, as its assembly defines it."""

        def arrive(p_flag: Pointer, generation: Tensor) -> None:
            launch.current.arrivals += 1
            p_flag.memory.data[int(p_flag.offset)] = generation

        def wait(state: Pointer, generation: Tensor, polls: int, programs: int) -> int:
            flags = state.memory.data[FLAGS : FLAGS + programs]
            left = polls
            while launch.current.arrivals != self.skipped and (flags - generation).min() < 0:
                left = 0 if state.memory.data[0] else max(left - 1, 0)
                if not left:
                    state.memory.data[0], launch.failed = 1, True
                    break
                self.polls += 1
                launch.switch()
            launch.current.waits += launch.current.arrivals != self.skipped
            return polls if left else 0

        return {"arrive": arrive, "wait": wait, "prefetch": lambda pointer, count: None}


def _expect(barrier: Barrier, size: int, pred: Any) -> None:
    if pred:
        assert barrier.expected < 0
        barrier.expected = size


def _copy(launch: Launch, source: Any, corner: list[Any], barrier: Barrier, slot: Slot, pred: Any) -> None:
    if not pred:
        return
    found = torch.zeros(source.block_type.shape, dtype=source.data.dtype)  # also beyond the end of the source
    places = tuple(
        slice(int(start), int(start) + size) for start, size in zip(corner, source.block_type.shape, strict=True)
    )
    inside = source.data[places]
    found[tuple(slice(size) for size in inside.shape)] = inside
    slot.data = torch.full_like(found, torch.nan)

    def land() -> None:
        slot.data = found
        barrier.advance(found.nbytes)

    launch.current.copies.append(land)


def _wait_for_copies(launch: Launch, barrier: Barrier, parity: Any) -> None:
    launch.switch()
    copies = launch.current.copies
    while barrier.phase % 2 == int(parity):
        assert copies, "a wait for copies that nothing started"
        copies.pop(launch.rng.randrange(len(copies)))()


def _language(launch: Launch) -> SimpleNamespace:
    def load(pointer: Pointer, mask: Any = True, other: float = 0) -> Tensor:
        offset, taken = torch.broadcast_tensors(_tensor(pointer.offset), _tensor(mask))
        index, taken, shape = offset.reshape(-1).long(), taken.reshape(-1), offset.shape
        assert not taken.any() or 0 <= index[taken].min() <= index[taken].max() < len(pointer.memory.data)
        pointer.memory.check(launch.current, index[taken].numpy(), write=False)
        found = torch.full((len(index),), other, dtype=pointer.memory.data.dtype)
        found[taken] = pointer.memory.data[index[taken]]
        return found.view(shape)

    def store(pointer: Pointer, value: Any, mask: Any = True) -> None:
        offset, taken, values = torch.broadcast_tensors(_tensor(pointer.offset), _tensor(mask), _tensor(value))
        index, taken = offset.reshape(-1).long(), taken.reshape(-1)
        assert not taken.any() or 0 <= index[taken].min() <= index[taken].max() < len(pointer.memory.data)
        pointer.memory.check(launch.current, index[taken].numpy(), write=True)
        pointer.memory.data[index[taken]] = values.reshape(-1)[taken].to(pointer.memory.data.dtype)

    def allocate(dtype: Any, shape: list[int], layout: Any) -> Slots:
        if shape[1:] == [1]:
            return Slots(Barrier() for _ in range(shape[0]))
        return Slots(Slot(shape[1:], getattr(dtype, "torch", dtype)) for _ in range(shape[0]))

    return SimpleNamespace(
        float32=torch.float32,
        int64=torch.int64,
        static_range=range,
        program_id=lambda axis: torch.tensor(launch.current.number),
        BlockedLayout=lambda *args: None,
        SliceLayout=lambda *args: None,
        SwizzledSharedLayout=lambda *args: None,
        arange=lambda start, end, layout: torch.arange(start, end),
        zeros=lambda shape, dtype, layout: torch.zeros(shape, dtype=dtype),
        full=lambda shape, value, dtype, layout: torch.full(shape, value, dtype=dtype),
        where=lambda mask, x, y: torch.where(_tensor(mask), x, y),
        maximum=lambda x, y: torch.maximum(*torch.broadcast_tensors(_tensor(x), _tensor(y))),
        minimum=lambda x, y: torch.minimum(*torch.broadcast_tensors(_tensor(x), _tensor(y))),
        sum=lambda x, axis: x.sum(axis),
        max=lambda x, axis: x.amax(axis),
        exp=torch.exp,
        exp2=torch.exp2,
        log2=torch.log2,
        abs=torch.abs,
        rsqrt=torch.rsqrt,
        reshape=lambda x, shape: x.reshape(shape),
        convert_layout=lambda x, layout: x,
        load=load,
        store=store,
        allocate_shared_memory=allocate,
    )
