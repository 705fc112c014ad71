"""The search behind `omnitok tune`: one launch at a time, on the GPU that is there.

Times are of CUDA graphs that go through more memory than the L2 holds, so that inputs are cold as they are between the
layers of a network.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from kernels.autotune.table import Search, Size, Trial
from kernels.runtime import jit

COLD = 120_000_000  # bytes gone through before one is read again: over twice the L2
MOST_SETS = 128
REPLAYS = 15
WORTH = 0.98  # of the default's time: what is hardly faster is noise
SLOW = 0.05  # seconds of a round that is repeated thrice only
APART = 5e-3  # of the default's root mean square
FARTHEST = 2**-5  # of the default's largest value
OTHER = 1e-4  # of the indices
# odd grids of which every candidate must make the same as the default
RAGGED = ((3, 1, 9, 21), (2, 5, 9, 7))


@dataclass(frozen=True)
class Outcome:
    """The result of a search at one number of rows.

    Args:
        dtype, rows: as the launch looks its tile up.
        tile: the fastest.
        before, after: microseconds of the default and of the fastest.
    """

    dtype: torch.dtype
    rows: int
    tile: Any
    before: float
    after: float


@dataclass
class Contest:
    """A search under way: candidates that failed once are not tried again.

    Args:
        search: of one launch.
        tell: takes a sentence about a candidate that is left out.
        clock: microseconds of one call of some that do the same.
    """

    search: Search[Any]
    tell: Callable[[str], None]
    clock: Callable[[Sequence[Callable[[], Any]]], float]
    _out: set[Any] = field(default_factory=set)

    def qualify(self, sizes: Sequence[Size], dtype: torch.dtype, device: torch.device) -> None:
        """Leave out what cannot run or computes something else on odd grids."""
        for size in sizes:
            if (trial := self.search.make(size, dtype, device)) is not None:
                self._eligible(trial)

    def hold(self, size: Size, dtype: torch.dtype, device: torch.device) -> Outcome | None:
        """Time all candidates at a size; None where a call of that size does not launch this."""
        before = _allocated(device)
        first = self.search.make(size, dtype, device)
        if first is None:
            return None
        read = _allocated(device) - before
        tiles = self._eligible(first)
        trials = [first]
        for _ in range(_sets(first, read) - 1):
            another = self.search.make(size, dtype, device)
            assert another is not None
            trials.append(another)
        times = self._timed(trials, tiles)
        best = min(times, key=lambda tile: times[tile])
        if times[best] <= WORTH * times[first.default]:  # once more in turn: a GPU slows down as it heats
            times = self._timed(trials, (first.default, best))
        if times.get(best, math.inf) > WORTH * times[first.default]:
            best = first.default
        return Outcome(first.dtype, first.rows, best, times[first.default], times[best])

    def _timed(self, trials: Sequence[Trial[Any]], tiles: Sequence[Any]) -> dict[Any, float]:
        """Times of those tiles that can be timed, the default among them."""
        times = {}
        for tile in tiles:
            try:
                times[tile] = self.clock([_bound(trial, tile) for trial in trials])
            except Exception as error:
                self._leave(tile, error)
        if trials[0].default not in times:
            raise RuntimeError(f"{self.search.name}: the default tile could not be timed")
        return times

    def _eligible(self, trial: Trial[Any]) -> list[Any]:
        """The default and the candidates that agree with it."""
        with jit.together():
            for tile in {trial.default, *self.search.candidates} - self._out:
                with suppress(Exception):  # it is told below, where it runs
                    trial.run(tile)
        expected = _results(trial.run(trial.default))
        agreeing = [trial.default]
        for tile in dict.fromkeys(self.search.candidates):
            if tile == trial.default or tile in self._out:
                continue
            try:
                found = _results(trial.run(tile))
            except Exception as error:  # it may not compile, or ask for more than the GPU has
                self._leave(tile, error)
                continue
            if (wrong := difference(found, expected)) is None:
                agreeing.append(tile)
            else:
                self._leave(tile, wrong)
        return agreeing

    def _leave(self, tile: Any, reason: object) -> None:
        self._out.add(tile)
        kind = f"{type(reason).__name__}: " if isinstance(reason, Exception) else ""
        line = next(iter(str(reason).strip().splitlines()), "")
        self.tell(f"{self.search.name}: {tile} is left out: {kind}{line[:200]}")


def difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> str | None:
    """Say how results differ beyond what another order of sums explains, or None."""
    for ours, theirs in zip(found, expected, strict=True):
        if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
            return f"{ours.dtype} {tuple(ours.shape)} instead of {theirs.dtype} {tuple(theirs.shape)}"
        if not ours.numel():
            continue
        if not theirs.is_floating_point():
            apart = (ours != theirs).float().mean().item()
            if apart > OTHER:
                return f"{apart:.2%} of its results are others"
            continue
        gap, size = (ours.double() - theirs.double()).abs(), theirs.double().abs()
        root, most = ((gap.square().mean() / size.square().mean()).sqrt().item(), (gap.max() / size.max()).item())
        if gap.any() and not (root <= APART and most <= FARTHEST):  # nan is beyond any bound
            return f"its results differ by {root:.1e} of their root mean square, {most:.1e} of the largest"
    return None


def graph_clock(calls: Sequence[Callable[[], Any]]) -> float:
    """Median microseconds of one call, replayed from a CUDA graph of all."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        calls[0]()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = [call() for call in calls]  # outputs stay, so that each call writes memory of its own
    began = time.perf_counter()
    graph.replay()
    torch.cuda.synchronize()
    times = []
    for _ in range(3 if time.perf_counter() - began > SLOW else REPLAYS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(1e3 * start.elapsed_time(end) / len(calls))
    del kept
    return sorted(times)[len(times) // 2]


def _results(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)


def _bound(trial: Trial[Any], tile: Any) -> Callable[[], Any]:
    return lambda: trial.run(tile)


def _allocated(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def _sets(trial: Trial[Any], read: int) -> int:
    """Copies of a call's tensors that outgrow the L2."""
    written = sum(x.numel() * x.element_size() for x in _results(trial.run(trial.default)))
    return max(2, min(MOST_SETS, -(-COLD // max(1, read + written))))
