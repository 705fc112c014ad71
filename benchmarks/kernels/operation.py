"""The description of one operator for its proof and its timing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from kernels.runtime.dispatch import Operator

Inputs = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One call of an operator.

    Args:
        name: as it stands in the table.
        make: draws the operator's keyword arguments with the generator, on its device, floating tensors in float32;
            fresh tensors at each call. They are cast to the dtype under test by `draw`.
        compiled: whether torch.compile of the reference is timed on it (seconds of compilation each).
    """

    name: str
    make: Callable[[torch.Generator], Inputs]
    compiled: bool = False


@dataclass(frozen=True)
class Operation:
    """One operator with its cases; its "triton" form is what is proved and timed.

    Args:
        name: the operator's.
        operator: from `kernels`.
        reference: its definition in plain torch, compared in float64 and timed under torch.compile.
        checked: small and odd shapes whose output and gradients are compared with the reference in float64; none for
            an operator that is only timed.
        timed: the shapes of the network.
        baselines: name to what torch offers for the same call, honest and with the copies that it needs.
        compilable: those of the baselines that are timed under torch.compile too.
        gradients: names of the inputs that receive gradients; none for an operator without.
        full_precision: names of the inputs that stay float32 whatever the dtype under test.
        compare: replaces the comparison with float64: takes inputs and output, returns what is wrong and a remark.
        dtypes: those that the operator takes on a GPU; others are left to torch.
        slow_to_compile: whether each case is proved in a process of its own.
        scratch: bytes beyond inputs and outputs that one call takes; bounds the number of buffers in rotation.
    """

    name: str
    operator: Operator[Any]
    reference: Callable[..., Tensor]
    checked: tuple[Case, ...]
    timed: tuple[Case, ...]
    baselines: Mapping[str, Callable[..., Tensor]]
    compilable: Mapping[str, Callable[..., Tensor]] = field(default_factory=dict)
    gradients: tuple[str, ...] = ()
    full_precision: frozenset[str] = frozenset()
    compare: Callable[[Inputs, Tensor], tuple[list[str], str]] | None = None
    dtypes: tuple[str, ...] = ("bfloat16", "float16", "float32")
    slow_to_compile: bool = False
    scratch: Callable[[Inputs], int] = field(default=lambda inputs: 0)

    def ours(self, **inputs: Any) -> Tensor:
        """The Triton form, or an error."""
        return self.operator.run_on("triton", **inputs)

    def draw(self, case: Case, dtype: torch.dtype, seed: int, device: str = "cuda") -> Inputs:
        """Inputs of a case in a dtype, with gradients asked for where the operator has them."""
        inputs = case.make(torch.Generator(device).manual_seed(seed))
        for name, value in inputs.items():
            if isinstance(value, Tensor) and value.is_floating_point():
                cast = value if name in self.full_precision else value.to(dtype)
                inputs[name] = cast.detach().requires_grad_(name in self.gradients)
        return inputs

    def differentiated(self, inputs: Inputs) -> list[Tensor]:
        """The inputs of this call that receive gradients."""
        return [inputs[name] for name in self.gradients if isinstance(inputs.get(name), Tensor)]


def tensor_bytes(*values: Any) -> int:
    """Bytes of the tensors among some values."""
    return sum(value.numel() * value.element_size() for value in values if isinstance(value, Tensor))


def uniform(generator: torch.Generator, *shape: int, low: float = -1.0, high: float = 1.0) -> Tensor:
    """Uniform float32 noise on the generator's device."""
    return torch.rand(shape, generator=generator, device=generator.device) * (high - low) + low


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    """Standard normal float32 noise on the generator's device."""
    return torch.randn(shape, generator=generator, device=generator.device)
