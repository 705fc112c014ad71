"""Times with a cold L2: the median replay of a CUDA graph that cycles through more buffers than the L2 holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.kernels.operation import Case, Inputs, Operation, tensor_bytes
from kernels.autotune.search import L2_FLUSH_BYTES, event_times, graph_times

MAX_BUFFER_SETS = 48
BUFFER_BYTES = 20_000_000_000


@dataclass(frozen=True)
class Time:
    """The microseconds of one call: median, and the 20th and 80th percentile of the replays.

    Args:
        graphed: the calls were replayed from a CUDA graph, without Python's launches.
    """

    median: float
    low: float
    high: float
    graphed: bool = True

    def __str__(self) -> str:
        return f"{self.median:.1f} ({self.low:.1f}-{self.high:.1f})" + ("" if self.graphed else "*")


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Args:
        moved: bytes of inputs and outputs.
        others: baselines by name; None if one could not run.
    """

    operation: str
    direction: str
    case: str
    ours: Time
    moved: int
    others: dict[str, Time | None]

    @property
    def rate(self) -> float:
        """Return bytes a second."""
        return self.moved / self.ours.median * 1e6

    def as_json(self, copy: float) -> dict[str, Any]:
        """Return plain values, with the share of a copy's bytes a second."""
        return asdict(self) | {"bytes_per_second": self.rate, "share_of_copy": self.rate / copy}


def time_calls(calls: list[Callable[[], Any]]) -> Time:
    """Time one call, given equal calls on different buffers."""

    def run() -> None:
        for call in calls:
            call()

    try:
        times, graphed = graph_times(calls), True
    except RuntimeError:  # a baseline that cannot be captured
        torch.cuda.synchronize()
        times, graphed = event_times(run, len(calls)), False
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
        operation, case, dtype: the call.
        compile_baseline: time torch.compile if the case requests it.
    """
    first = operation.draw(case, dtype, seed=0)
    out = operation.ours(**first).detach()
    moved = tensor_bytes(*first.values(), out)
    sets = max(2, min(MAX_BUFFER_SETS, -(-L2_FLUSH_BYTES // moved)))
    sets = max(1, min(sets, BUFFER_BYTES // (4 * moved + operation.scratch(first))))
    draws = [first, *(operation.draw(case, dtype, seed) for seed in range(1, sets))]
    runs = {"ours": operation.ours, **operation.others(compiled=case.compiled and compile_baseline)}
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
    except RuntimeError as error:  # a failed baseline must not end the run
        print(f"  could not be timed: {str(error).splitlines()[0][:150]}")
        torch.cuda.synchronize()
        return None


def _row(operation: Operation, direction: str, case: Case, times: dict[str, Time | None], moved: int) -> Row:
    ours = times.pop("ours")
    if ours is None:
        raise RuntimeError(f"{operation.name} could not be timed on {case.name}.")
    return Row(operation.name, direction, case.name, ours, moved, times)
