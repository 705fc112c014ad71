"""Times with a cold L2: a CUDA graph runs over more than 100 MB of inputs in rotation, and its replays are timed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.kernels.operation import Case, Inputs, Operation, tensor_bytes

L2_FLUSH_BYTES = 120_000_000  # bytes of inputs and outputs gone through before one is seen again: over twice the L2
REPLAYS = 15
SLOW_ROUND_S = 0.1  # seconds of a round that is repeated thrice only
MAX_BUFFER_SETS = 48
BUFFER_BYTES = 20_000_000_000


@dataclass(frozen=True)
class Time:
    """Microseconds of one call: median, and the 20th and 80th percentile of the replays.

    Args:
        graphed: whether the calls were replayed from a CUDA graph, so that no launch from Python counts.
    """

    median: float
    low: float
    high: float
    graphed: bool = True

    def __str__(self) -> str:
        return f"{self.median:.1f} ({self.low:.1f}-{self.high:.1f})" + ("" if self.graphed else "*")


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        moved: bytes that must move: inputs and outputs once.
        others: baselines by name; None where one could not run.
    """

    operation: str
    direction: str
    case: str
    ours: Time
    moved: int
    others: dict[str, Time | None]

    @property
    def rate(self) -> float:
        """Bytes a second."""
        return self.moved / self.ours.median * 1e6

    def as_json(self, copy: float) -> dict[str, Any]:
        """Plain values, with the share of the bytes a second that a copy reaches."""
        return asdict(self) | {"bytes_per_second": self.rate, "share_of_copy": self.rate / copy}


def time_calls(calls: list[Callable[[], Any]], replays: int = REPLAYS) -> Time:
    """Time one round over the calls, again and again; an answer is microseconds of one call.

    Args:
        calls: the same call on different buffers.
        replays: rounds.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for call in calls[:2]:
            call()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    kept: list[Any] = []  # outputs stay, so that each call writes memory of its own
    graphed = True
    try:
        with torch.cuda.graph(graph):
            kept.extend(call() for call in calls)
        once = graph.replay
    except RuntimeError:  # something in a baseline cannot be captured
        torch.cuda.synchronize()
        graphed = False

        def once() -> None:
            for call in calls:
                call()

    began = time.perf_counter()
    once()
    torch.cuda.synchronize()
    if time.perf_counter() - began > SLOW_ROUND_S:
        replays = 3
    times = []
    for _ in range(replays):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        once()
        end.record()
        end.synchronize()
        times.append(1e3 * start.elapsed_time(end) / len(calls))
    times.sort()
    return Time(times[len(times) // 2], times[len(times) // 5], times[-1 - len(times) // 5], graphed)


def _forward(run: Callable[..., Tensor], inputs: Inputs) -> Callable[[], Any]:
    def call() -> Tensor:
        with torch.no_grad():
            return run(**inputs)

    return call


def _both(run: Callable[..., Tensor], operation: Operation, inputs: Inputs, gradient: Tensor) -> Callable[[], Any]:
    wanted = operation.differentiated(inputs)

    def call() -> Any:
        out = run(**inputs)
        return out.detach(), torch.autograd.grad(out, wanted, gradient.to(out.dtype))

    return call


def time_case(operation: Operation, case: Case, dtype: torch.dtype, compile_baseline: bool) -> list[Row]:
    """Time ours and the baselines on one case, forward and with gradients.

    Args:
        operation, case, dtype: what is called.
        compile_baseline: whether torch.compile is timed where the case asks for it.
    """
    first = operation.draw(case, dtype, seed=0)
    out = operation.ours(**first).detach()
    moved = tensor_bytes(*first.values(), out)
    sets = max(2, min(MAX_BUFFER_SETS, -(-L2_FLUSH_BYTES // moved)))
    sets = max(1, min(sets, BUFFER_BYTES // (4 * moved + operation.scratch(first))))
    draws = [first, *(operation.draw(case, dtype, seed) for seed in range(1, sets))]
    runs = {"ours": operation.ours, **operation.baselines}
    if case.compiled and compile_baseline:
        torch._dynamo.reset()
        for name, run in {"reference": operation.reference, **operation.compilable}.items():
            runs[f"torch.compile {name}"] = torch.compile(run, dynamic=False)

    times = {name: _attempt([_forward(run, inputs) for inputs in draws]) for name, run in runs.items()}
    rows = [_row(operation, "forward", case, times, moved)]
    if operation.gradients:
        gradients = [torch.randn(out.shape, device=out.device).to(out.dtype) for _ in draws]
        times = {
            name: _attempt([_both(run, operation, i, g) for i, g in zip(draws, gradients, strict=True)])
            for name, run in runs.items()
        }
        backward = tensor_bytes(*first.values(), out, *operation.differentiated(first))
        rows.append(_row(operation, "forward + backward", case, times, moved + backward))
    return rows


def _attempt(calls: list[Callable[[], Any]]) -> Time | None:
    try:
        return time_calls(calls)
    except RuntimeError as error:  # a baseline that does not run is a line in the table, not the end of it
        print(f"  could not be timed: {str(error).splitlines()[0][:150]}")
        torch.cuda.synchronize()
        return None


def _row(operation: Operation, direction: str, case: Case, times: dict[str, Time | None], moved: int) -> Row:
    ours = times.pop("ours")
    if ours is None:
        raise RuntimeError(f"{operation.name} could not be timed on {case.name}")
    return Row(operation.name, direction, case.name, ours, moved, times)
