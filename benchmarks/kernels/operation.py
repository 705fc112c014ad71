"""The description of one operator for its checks and its timing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Concatenate, ParamSpec

import torch
from torch import Tensor

from kernels.runtime.dispatch import Operator

Inputs = dict[str, Any]
Make = Callable[[torch.Generator], Inputs]
P = ParamSpec("P")


@dataclass(frozen=True)
class Case:
    """One call of an operator.

    Args:
        name: in the table.
        make: draws new keyword arguments of the operator on the generator's device, floats in float32; `draw` casts
            them to the dtype under test.
        compiled: time torch.compile of the reference too, which compiles for seconds.
    """

    name: str
    make: Make
    compiled: bool = False


def delayed(draw: Callable[Concatenate[torch.Generator, P], Inputs]) -> Callable[P, Make]:
    """Make a function take its arguments first and the generator, for a case, afterwards."""
    return lambda *args, **kwargs: lambda generator: draw(generator, *args, **kwargs)


# of latents: batch, frames, height, width
GRIDS = {
    "image 256, B 1": (1, 1, 32, 32),
    "image 256, B 16": (16, 1, 32, 32),
    "image 256, B 64": (64, 1, 32, 32),
    "clip 17x128, B 8": (8, 5, 16, 16),
    "clip 17x256, B 8": (8, 5, 32, 32),
}


def on_grids(
    make: Callable[[int, int, int, int], Make],
    names: Iterable[str] = GRIDS,
    compiled: Iterable[str] = ("image 256, B 16",),
) -> tuple[Case, ...]:
    """Return the cases of the network's grids.

    Args:
        make: takes a grid and returns a case's `make`.
        names: in `GRIDS`.
        compiled: names of those timed under torch.compile too.
    """
    return tuple(Case(name, make(*GRIDS[name]), name in compiled) for name in names)


@dataclass(frozen=True)
class Operation:
    """An operator with the cases for checking and timing its Triton kernels.

    Args:
        operator: from `kernels`.
        checked: small and odd shapes, compared with the reference in float64; none if the operator is only timed.
        timed: the shapes of the network.
        backends: the operator's other implementations that are timed: "torch", or the "reference" as it is.
        baselines: other ways to compute the same call by name, including the copies that they need.
        compilable: the names of both kinds that are timed under torch.compile too, as the reference always is.
        gradients: names of the inputs that receive gradients.
        full_precision: names of the inputs that stay float32 in every dtype under test.
        compare: replaces the comparison with float64: takes inputs and output, returns failures and a remark.
        dtypes: those that the kernels take.
        slow_to_compile: check each case in its own process.
        scratch: bytes of one call beyond inputs and outputs; bounds the number of rotating buffers.
    """

    operator: Operator[Any, Any]
    checked: tuple[Case, ...]
    timed: tuple[Case, ...]
    backends: tuple[str, ...] = ()
    baselines: Mapping[str, Callable[..., Tensor]] = field(default_factory=dict)
    compilable: tuple[str, ...] = ()
    gradients: tuple[str, ...] = ()
    full_precision: frozenset[str] = frozenset()
    compare: Callable[[Inputs, Tensor], tuple[list[str], str]] | None = None
    dtypes: tuple[str, ...] = ("bfloat16", "float16", "float32")
    slow_to_compile: bool = False
    scratch: Callable[[Inputs], int] = field(default=lambda inputs: 0)

    @property
    def name(self) -> str:
        """Return the operator's name."""
        return self.operator.name

    def ours(self, **inputs: Any) -> Tensor:
        """Run the Triton kernels, or raise."""
        return self.operator.run_on("triton", **inputs)

    def reference(self, **inputs: Any) -> Tensor:
        """Run the definition."""
        return self.implementation("reference")(**inputs)

    def implementation(self, backend: str) -> Callable[..., Tensor]:
        """Return an implementation without the choice of a backend, for torch.compile."""
        run, args = self.operator.implementations[backend].run, self.operator.args
        return lambda **inputs: run(args(**inputs))

    def others(self, compiled: bool) -> dict[str, Callable[..., Tensor]]:
        """Return what our time is compared with, under torch.compile too if `compiled`."""
        eager = {**{backend: self.implementation(backend) for backend in self.backends}, **self.baselines}
        if not compiled:
            return eager
        torch._dynamo.reset()
        known = {"reference": self.implementation("reference")} | eager
        chosen = ("reference", *self.compilable)
        return eager | {f"torch.compile {name}": torch.compile(known[name], dynamic=False) for name in chosen}

    def draw(self, case: Case, dtype: torch.dtype, seed: int, device: str = "cuda") -> Inputs:
        """Draw the inputs of a case in a dtype, or with it as an argument, requiring gradients where there are some."""
        inputs = case.make(torch.Generator(device).manual_seed(seed))
        for name, value in inputs.items():
            if isinstance(value, Tensor) and value.is_floating_point():
                kept = name in self.full_precision or value.dtype.itemsize == 1  # a float8 cache
                cast = value if kept else value.to(dtype)
                inputs[name] = cast.detach().requires_grad_(name in self.gradients)
            elif isinstance(value, torch.dtype):
                inputs[name] = dtype
        return inputs

    def differentiated(self, inputs: Inputs) -> list[Tensor]:
        """Return the inputs of this call that receive gradients."""
        return [inputs[name] for name in self.gradients if isinstance(inputs.get(name), Tensor)]


def tensor_bytes(*values: Any) -> int:
    """Return the bytes of the tensors among these values."""
    return sum(value.numel() * value.element_size() for value in values if isinstance(value, Tensor))


def uniform(generator: torch.Generator, *shape: int, low: float = -1.0, high: float = 1.0) -> Tensor:
    """Return uniform float32 noise on the generator's device."""
    return torch.rand(shape, generator=generator, device=generator.device) * (high - low) + low


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    """Return standard normal float32 noise on the generator's device."""
    return torch.randn(shape, generator=generator, device=generator.device)
