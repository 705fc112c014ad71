"""CUDA graphs of fixed shapes: one launch for a whole network, replayed on inputs that are copied in."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.cuda import _POOL_HANDLE

Out = TypeVar("Out")
Run = Callable[[Tensor], tuple[Tensor, ...]]
HIGH_PRIORITY = -1
WARM_UPS = 2  # calls before a capture, which load and compile whatever the call needs


@contextmanager
def on_stream(stream: torch.cuda.Stream) -> Iterator[None]:
    """Run a block on another stream, between the work before it and after it on the current one.

    Memory that is touched before a capture must not belong to the default stream.
    """
    current = torch.cuda.current_stream(stream.device)
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        yield
    current.wait_stream(stream)


def capture_graph(
    run: Callable[[], Out],
    pool: _POOL_HANDLE | None = None,
    stream: torch.cuda.Stream | None = None,
    errors: str = "global",
) -> tuple[torch.cuda.CUDAGraph, Out]:
    """Capture a call that has been warmed up; nothing of it runs yet.

    Args:
        run: the call, on tensors that stay where they are.
        pool: of memory, shared with other graphs.
        stream: to capture on; one of torch's own by default.
        errors: "thread_local" lets other threads use the device meanwhile.

    Returns:
        The graph, and the outputs that each replay fills.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode=errors):
        out = run()
    return graph, out


class StepsAhead:
    """The steps of a stream that the device has not finished, which are kept few.

    Args:
        limit: steps that may be ahead; more would only delay who joins or leaves, and what shares the device.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._events: deque[torch.cuda.Event] = deque()

    def add(self, stream: torch.cuda.Stream) -> None:
        """Note a step that has been enqueued, and wait until few are left."""
        event = torch.cuda.Event(blocking=True)
        event.record(stream)
        self._events.append(event)
        if len(self._events) > self._limit:
            self._events.popleft().synchronize()


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
        # a captured kernel keeps the priority of its stream: whole calls go before the steps of a decoder
        stream = torch.cuda.Stream(x.device, priority=HIGH_PRIORITY)
        with on_stream(stream):
            for _ in range(WARM_UPS):
                run(x)
        self._graph, self._out = capture_graph(lambda: run(x), pool, stream)

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        self._x[: len(x)].copy_(x)
        self._graph.replay()
        return tuple(out[: len(x)].clone() for out in self._out)
