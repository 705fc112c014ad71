"""CUDA graphs of fixed shapes: one launch for a whole network, replayed on inputs that are copied in."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.cuda import _POOL_HANDLE

Run = Callable[[Tensor], tuple[Tensor, ...]]
WARM_UPS = 2  # calls before a capture, which load and compile whatever the call needs


class Graphs:
    """Captured calls of one function, by the shape of their input.

    A batch runs on the graph of the smallest captured batch that holds it, rows beyond it being whatever was there; a
    batch's items do not see each other. All graphs share one pool of memory, so that they cost no more than the
    largest; outputs are copied out before another may run. One thread at a time may use them.

    Args:
        run: takes one tensor, the batch first, and returns tensors with the batch first.
        pool: of memory, shared with other graphs; None where nothing is captured.
    """

    def __init__(self, run: Run, pool: _POOL_HANDLE | None) -> None:
        self._run = run
        self._pool = pool
        self._captured: dict[tuple[int, ...], dict[int, _Captured]] = {}

    @torch.inference_mode()
    def capture(self, example: Tensor) -> None:
        """Capture the call on a shape.

        Args:
            example: an input of that shape; its values do not matter but must be valid.
        """
        batches = self._captured.setdefault(tuple(example.shape[1:]), {})
        if len(example) not in batches:
            batches[len(example)] = _Captured(self._run, example.clone(), self._pool)

    @torch.inference_mode()
    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        """Run on a batch, from a graph where one holds it."""
        batches = self._captured.get(tuple(x.shape[1:]), {})
        sizes = sorted(batches)
        place = bisect_left(sizes, len(x))
        if place == len(sizes):
            return self._run(x)
        return batches[sizes[place]](x)


class _Captured:
    """One graph with its input and outputs."""

    def __init__(self, run: Run, x: Tensor, pool: _POOL_HANDLE | None) -> None:
        self._x = x
        side = torch.cuda.Stream(x.device)
        side.wait_stream(torch.cuda.current_stream(x.device))
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                run(x)
        torch.cuda.current_stream(x.device).wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool):
            self._out = run(x)

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        self._x[: len(x)].copy_(x)
        self._graph.replay()
        return tuple(out[: len(x)].clone() for out in self._out)
