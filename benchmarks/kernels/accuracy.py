"""Error of output and gradients against float64, compared with that of the reference at the same precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from benchmarks.kernels.operation import Case, Inputs, Operation

RMS_TOL = 5e-3
MAX_ERROR_RATIO = 2.0  # of our largest error to that of the reference
# relative to the largest value, where the reference is more exact: a quarter of a rounding, two in float32
ROUNDING_TOL = {torch.bfloat16: 2.0**-11, torch.float16: 2.0**-14, torch.float32: 2.0**-23}


@dataclass
class Check:
    """The result of one check.

    Args:
        operation, name: of the check.
        failures: one sentence each.
        ratios: worst measured ratios, for the report.
        remark: an observation that is not a failure.
    """

    operation: str
    name: str
    failures: list[str] = field(default_factory=list)
    ratios: dict[str, float] = field(default_factory=dict)
    remark: str = ""


def evaluate(run: Callable[..., Tensor], operation: Operation, inputs: Inputs, seed: int) -> dict[str, Tensor]:
    """Return output and gradients of one call by name; `seed` draws the gradient of the output."""
    out = run(**inputs)
    results = {"output": out.detach()}
    wanted = operation.differentiated(inputs)
    if wanted:
        generator = torch.Generator(out.device).manual_seed(seed)
        gradient = torch.randn(out.shape, generator=generator, device=out.device).to(inputs_dtype(inputs)).to(out.dtype)
        found = torch.autograd.grad(out, wanted, gradient)
        named = [name for name in operation.gradients if isinstance(inputs.get(name), Tensor)]
        results |= {f"d{name}": g for name, g in zip(named, found, strict=True)}
    return results


def inputs_dtype(inputs: Inputs) -> torch.dtype:
    """Return the dtype under test, that of the first tensor."""
    return next(value.dtype for value in inputs.values() if isinstance(value, Tensor))


def in_float64(inputs: Inputs) -> Inputs:
    """Return the values in float64 with the same `requires_grad`; tuples of tensors and a dtype too."""

    def cast(value: Any) -> Any:
        if isinstance(value, Tensor) and value.is_floating_point():
            return value.detach().double().requires_grad_(value.requires_grad)
        if isinstance(value, torch.dtype):
            return torch.float64
        if isinstance(value, tuple):
            parts = [cast(part) for part in value]
            return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
        return value

    return {name: cast(value) for name, value in inputs.items()}


def check(operation: Operation, case: Case, dtype: torch.dtype) -> Check:
    """Compare output and every gradient of the Triton kernels with float64.

    Args:
        operation, case: the call.
        dtype: of the inputs; the float64 truth uses their rounded values.
    """
    inputs = operation.draw(case, dtype, seed=0)
    result = Check(operation.name, f"{case.name}, {str(dtype).removeprefix('torch.')}")
    if operation.compare is not None:
        result.failures, result.remark = operation.compare(inputs, operation.ours(**inputs))
        return result
    truth = evaluate(operation.reference, operation, in_float64(inputs), seed=1)
    expected = evaluate(operation.reference, operation, inputs, seed=1)
    ours = evaluate(operation.ours, operation, inputs, seed=1)
    for name, right in truth.items():
        found = ours[name]
        if found.dtype != expected[name].dtype and name != "output":
            result.failures.append(f"{name} is {found.dtype}, not {expected[name].dtype}")
        error = (found.double() - right).abs().max().item()
        allowed = MAX_ERROR_RATIO * (expected[name].double() - right).abs().max().item()
        allowed += ROUNDING_TOL[dtype] * right.abs().max().item()
        rms = ((found.double() - right).norm() / right.norm().clamp_min(1e-30)).item()
        result.ratios[f"{name} error / allowed"] = error / max(allowed, 1e-30)
        result.ratios[f"{name} rms"] = rms
        if not error <= allowed:
            result.failures.append(f"{name}: largest error {error:.3g}, allowed {allowed:.3g}")
        if not rms < RMS_TOL:
            result.failures.append(f"{name}: RMS ratio {rms:.3g}")
    return result
