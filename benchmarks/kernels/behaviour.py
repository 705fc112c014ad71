"""Checks of behaviour: every element is written, streams are independent, graphs replay, one compilation suffices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from benchmarks.kernels.accuracy import Check, evaluate
from benchmarks.kernels.operation import Case, Inputs, Operation
from kernels import use_backend
from model.inference.graphs import capture_graph, on_stream


@contextmanager
def poisoned() -> Iterator[None]:
    """Fill uninitialised memory with NaN, or with the lowest integer."""

    def fill(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def filled(*args: Any, **kwargs: Any) -> Tensor:
            out = make(*args, **kwargs)
            if out.is_floating_point():
                return out.fill_(float("nan"))
            return out if out.dtype == torch.bool else out.fill_(torch.iinfo(out.dtype).min)

        return filled

    with (
        mock.patch("torch.empty", fill(torch.empty)),
        mock.patch("torch.empty_like", fill(torch.empty_like)),
        mock.patch("torch.Tensor.new_empty", fill(torch.Tensor.new_empty)),
    ):
        yield


def _differ(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    return [f"{name} differs" for name in one if not torch.equal(one[name], other[name])]


def check_poison(operation: Operation, case: Case, dtype: torch.dtype) -> Check:
    """Check that outputs do not depend on uninitialised memory."""
    inputs = operation.draw(case, dtype, seed=2)
    clean = evaluate(operation.ours, operation, inputs, seed=3)
    with poisoned():
        found = evaluate(operation.ours, operation, inputs, seed=3)
    return Check(operation.name, f"poisoned memory, {case.name}", _differ(clean, found))


def check_repeatable(operation: Operation, case: Case, dtype: torch.dtype) -> Check:
    """Check that every call gives equal bits, gradients included."""
    inputs = operation.draw(case, dtype, seed=2)
    clean = evaluate(operation.ours, operation, inputs, seed=3)
    failures = {w for _ in range(5) for w in _differ(clean, evaluate(operation.ours, operation, inputs, seed=3))}
    return Check(operation.name, f"same bits again, {case.name}", sorted(failures))


def check_streams(operation: Operation, case: Case, dtype: torch.dtype) -> Check:
    """Check that concurrent calls on two streams are independent."""
    draws = [operation.draw(case, dtype, seed) for seed in (4, 5)]
    alone = [evaluate(operation.ours, operation, inputs, seed=6) for inputs in draws]
    streams = [torch.cuda.Stream() for _ in draws]
    torch.cuda.synchronize()
    failures: set[str] = set()
    for _ in range(10):
        concurrent = []
        for stream, inputs in zip(streams, draws, strict=True):
            with torch.cuda.stream(stream):
                concurrent.append(evaluate(operation.ours, operation, inputs, seed=6))
        torch.cuda.synchronize()
        failures |= {w for one, other in zip(alone, concurrent, strict=True) for w in _differ(one, other)}
    return Check(operation.name, f"two streams, {case.name}", sorted(failures))


def check_graph(operation: Operation, case: Case, dtype: torch.dtype) -> Check:
    """Check that a captured graph, replayed with other inputs, equals a call."""
    inputs, others = (operation.draw(case, dtype, seed) for seed in (7, 8))
    result = Check(operation.name, f"graph replay, {case.name}")
    wanted = evaluate(operation.ours, operation, others, seed=9)
    gradient = torch.randn_like(wanted["output"], dtype=torch.float32).to(wanted["output"].dtype)

    def call(values: Inputs) -> list[Tensor]:
        out = operation.ours(**values)
        asked = operation.differentiated(values)
        return [out, *(torch.autograd.grad(out, asked, gradient) if asked else ())]

    right = call(others)
    with on_stream(torch.cuda.Stream()):
        call(inputs)
    graph, replayed = capture_graph(lambda: call(inputs))
    with torch.no_grad():
        for name, value in inputs.items():
            if isinstance(value, Tensor):
                value.copy_(others[name])
    for _ in range(2):
        graph.replay()
    torch.cuda.synchronize()
    if not all(torch.equal(a, b) for a, b in zip(replayed, right, strict=True)):
        result.failures.append("a replay with other inputs differs from a call")
    return result


def check_compile(operation: Operation, case: Case, dtype: torch.dtype) -> Check:
    """Check that torch.compile takes the whole call, once for a shape, and changes nothing."""
    result = Check(operation.name, f"torch.compile, {case.name}")
    torch._dynamo.reset()
    compiled = torch.compile(lambda **inputs: operation.operator(**inputs), fullgraph=True, dynamic=False)
    with use_backend("triton"), torch._dynamo.config.patch(error_on_recompile=True):
        for seed in (10, 11):
            inputs = operation.draw(case, dtype, seed)
            plain = evaluate(operation.ours, operation, inputs, seed=12)
            found = evaluate(compiled, operation, inputs, seed=12)
            result.failures += _differ(plain, found)
    torch._dynamo.reset()
    return result


CHECKS = (check_poison, check_repeatable, check_streams, check_graph, check_compile)
