"""Error of output and gradients against float64, beside that of the same formula in torch at the same precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from benchmarks.kernels.operation import Case, Inputs, Operation

RMS_TOL = 5e-3
MAX_ERROR_RATIO = 2.0  # our largest error may be so many times that of the formula in torch
# of the largest value, allowed whatever torch's error is: a quarter of a rounding, in float32 two
ROUNDING_TOL = {torch.bfloat16: 2.0**-11, torch.float16: 2.0**-14, torch.float32: 2.0**-23}


@dataclass
class Check:
    """The result of one check.

    Args:
        operation, name: what was checked.
        wrong: a sentence for each thing that failed.
        figures: worst measured ratios, for the report.
        remark: what else should be known.
    """

    operation: str
    name: str
    wrong: list[str] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    remark: str = ""


def evaluate(run: Callable[..., Tensor], operation: Operation, inputs: Inputs, seed: int) -> dict[str, Tensor]:
    """Output and gradients of one call, the gradient of the output drawn from `seed`; named."""
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
    """The dtype under test: that of the first tensor."""
    return next(value.dtype for value in inputs.values() if isinstance(value, Tensor))


def in_float64(inputs: Inputs) -> Inputs:
    """Return the values in float64 with the same `requires_grad`; tuples of tensors too."""

    def cast(value: Any) -> Any:
        if isinstance(value, Tensor) and value.is_floating_point():
            return value.detach().double().requires_grad_(value.requires_grad)
        if isinstance(value, tuple):
            parts = [cast(part) for part in value]
            return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
        return value

    return {name: cast(value) for name, value in inputs.items()}


def check(operation: Operation, case: Case, dtype: torch.dtype) -> Check:
    """Compare the Triton form with float64, output and every gradient.

    Args:
        operation, case: what is called.
        dtype: of the inputs; the float64 truth starts from their rounded values.
    """
    inputs = operation.draw(case, dtype, seed=0)
    result = Check(operation.name, f"{case.name}, {str(dtype).removeprefix('torch.')}")
    if operation.compare is not None:
        result.wrong, result.remark = operation.compare(inputs, operation.ours(**inputs))
        return result
    truth = evaluate(operation.reference, operation, in_float64(inputs), seed=1)
    torch_has = evaluate(operation.reference, operation, inputs, seed=1)
    ours = evaluate(operation.ours, operation, inputs, seed=1)
    for name, right in truth.items():
        found = ours[name]
        if found.dtype != torch_has[name].dtype and name != "output":
            result.wrong.append(f"{name} is {found.dtype}, not {torch_has[name].dtype}")
        error = (found.double() - right).abs().max().item()
        allowed = MAX_ERROR_RATIO * (torch_has[name].double() - right).abs().max().item()
        allowed += ROUNDING_TOL[dtype] * right.abs().max().item()
        rms = ((found.double() - right).norm() / right.norm().clamp_min(1e-30)).item()
        result.figures[f"{name} error / allowed"] = error / max(allowed, 1e-30)
        result.figures[f"{name} rms"] = rms
        if not error <= allowed:
            result.wrong.append(f"{name}: largest error {error:.3g}, allowed {allowed:.3g}")
        if not rms < RMS_TOL:
            result.wrong.append(f"{name}: RMS ratio {rms:.3g}")
    return result
