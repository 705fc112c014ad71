"""Tile search for one launch at a time, on the present GPU.

A CUDA graph cycles through more memory than the L2 holds, since inputs are cold between the layers of a network.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kernels.autotune.table import Lookup, ProblemSize, TuningSpace, use_tile
from kernels.runtime import jit

L2_FLUSH_BYTES = 120_000_000  # over twice the L2 of an H100
MAX_BUFFER_SETS = 128
REPLAYS = 15
SLOW_REPLAYS = 3
SLOW_REPLAY_S = 0.05
MIN_SPEEDUP = 1.02  # less is noise
RMS_TOL = 5e-3  # relative to the default's root mean square
MAX_TOL = 2**-5  # relative to the default's largest value
INDEX_TOL = 1e-4  # fraction of indices
ODD_GRIDS = ((3, 1, 9, 21), (2, 5, 9, 7))  # no tile divides them


@dataclass(frozen=True)
class TuneResult:
    """The result of a search at one number of rows.

    Args:
        dtype, rows: the key by which the launch looks its tile up.
        tile: the fastest.
        default_us, best_us: microseconds of the default and of the fastest.
    """

    dtype: torch.dtype
    rows: int
    tile: Any
    default_us: float
    best_us: float


@dataclass
class LaunchTuner:
    """A search in progress; a candidate that failed once is not tried again.

    Args:
        space: the candidates of one launch.
        log: takes a sentence about each candidate that is skipped.
        clock: returns the microseconds of one call, given equal calls on different buffers.
    """

    space: TuningSpace[Any]
    log: Callable[[str], None]
    clock: Callable[[Sequence[Callable[[], Any]]], float]
    _failed: set[Any] = field(default_factory=set)

    def validate(self, sizes: Sequence[ProblemSize], dtype: torch.dtype, device: torch.device) -> None:
        """Skip candidates that cannot run or differ from the default at some size."""
        for size in sizes:
            if (args := self.space.draw(size, dtype, device)) is not None and (key := self._lookup(args)) is not None:
                self._correct_tiles(args, key.default)

    def tune(self, size: ProblemSize, dtype: torch.dtype, device: torch.device) -> TuneResult | None:
        """Time all candidates at a size; None where a call of that size does not use this launch."""
        before = _allocated(device)
        args = self.space.draw(size, dtype, device)
        if args is None or (key := self._lookup(args)) is None:
            return None
        default, input_bytes = key.default, _allocated(device) - before
        tiles = self._correct_tiles(args, default)
        output_bytes = sum(x.numel() * x.element_size() for x in self._run(args, default))
        sets = max(2, min(MAX_BUFFER_SETS, -(-L2_FLUSH_BYTES // max(1, input_bytes + output_bytes))))
        draws = [args, *(self.space.draw(size, dtype, device) for _ in range(sets - 1))]
        times = self._time(draws, tiles, default)
        best = min(times, key=lambda tile: times[tile])
        if is_faster(times[best], times[default]):  # a second round, since a GPU slows down as it heats
            times = self._time(draws, (default, best), default)
        if not is_faster(times.get(best, math.inf), times[default]):
            best = default
        return TuneResult(key.dtype, key.rows, best, times[default], times[best])

    def _run(self, args: Sequence[Any], tile: Any) -> list[Tensor]:
        with use_tile(self.space.name, tile):
            result = self.space.launch(*args)
        return [result] if isinstance(result, Tensor) else list(result)

    def _lookup(self, args: Sequence[Any]) -> Lookup | None:
        """Return the launch's look-up of its tile, or None if this call makes none."""
        with jit.compile_all(), use_tile(self.space.name) as lookups:
            self.space.launch(*args)
        return lookups[0] if lookups else None

    def _time(self, draws: Sequence[Any], tiles: Sequence[Any], default: Any) -> dict[Any, float]:
        """Return the microseconds of each tile that can be timed; the default must be among them."""
        times = {}
        for tile in tiles:
            try:
                times[tile] = self.clock([partial(self._run, args, tile) for args in draws])
            except Exception as error:
                self._skip(tile, error)
        if default not in times:
            raise RuntimeError(f"The default tile of {self.space.name} could not be timed.")
        return times

    def _correct_tiles(self, args: Sequence[Any], default: Any) -> list[Any]:
        """Return the default and the candidates that agree with it."""
        with jit.compile_all():
            for tile in {*self.space.candidates} - self._failed:
                with suppress(Exception):  # the next launch of the tile reports it
                    self._run(args, tile)
        expected = self._run(args, default)
        correct = [default]
        for tile in dict.fromkeys(self.space.candidates):
            if tile == default or tile in self._failed:
                continue
            try:
                found = self._run(args, tile)
            except Exception as error:  # a tile may not compile, or ask for more than the GPU has
                self._skip(tile, error)
                continue
            if (reason := difference(found, expected)) is None:
                correct.append(tile)
            else:
                self._skip(tile, reason)
        return correct

    def _skip(self, tile: Any, reason: object) -> None:
        self._failed.add(tile)
        kind = f"{type(reason).__name__}: " if isinstance(reason, Exception) else ""
        line = next(iter(str(reason).strip().splitlines()), "")
        self.log(f"{self.space.name}: skipped {tile}: {kind}{line[:200]}")


def difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> str | None:
    """Return how results differ by more than another order of sums explains, or None."""
    for ours, theirs in zip(found, expected, strict=True):
        if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
            return f"the result is {ours.dtype} {tuple(ours.shape)} instead of {theirs.dtype} {tuple(theirs.shape)}"
        if not ours.numel():
            continue
        if not theirs.is_floating_point():
            differing = (ours != theirs).float().mean().item()
            if differing > INDEX_TOL:
                return f"{differing:.2%} of the indices differ"
            continue
        error, size = (ours.double() - theirs.double()).abs(), theirs.double().abs()
        rms, largest = ((error.square().mean() / size.square().mean()).sqrt().item(), (error.max() / size.max()).item())
        if error.any() and not (rms <= RMS_TOL and largest <= MAX_TOL):  # NaN exceeds any bound
            return f"the error is {rms:.1e} of the root mean square and {largest:.1e} of the largest value"
    return None


def graph_clock(calls: Sequence[Callable[[], Any]]) -> float:
    """Return the median microseconds of one call, replayed from a CUDA graph of all."""
    times = graph_times(calls)
    return times[len(times) // 2]


def graph_times(calls: Sequence[Callable[[], Any]]) -> list[float]:
    """Return the sorted microseconds of one call, an element for each replay of a CUDA graph of all calls."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for call in calls[:2]:
            call()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads may use the device
        outputs = [call() for call in calls]  # kept, so that each call writes its own memory
    times = event_times(graph.replay, len(calls))
    del outputs
    return times


def event_times(run: Callable[[], Any], count: int) -> list[float]:
    """Return the sorted microseconds of each of `count` calls that `run` makes, an element for each repetition."""
    start_s = time.perf_counter()
    run()
    torch.cuda.synchronize()
    times = []
    for _ in range(SLOW_REPLAYS if time.perf_counter() - start_s > SLOW_REPLAY_S else REPLAYS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(1e3 * start.elapsed_time(end) / count)
    return sorted(times)


def is_faster(us: float, default_us: float) -> bool:
    """Return whether a time is shorter than the default's by more than noise."""
    return us * MIN_SPEEDUP <= default_us


def _allocated(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
