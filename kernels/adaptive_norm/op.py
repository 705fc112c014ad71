"""The adaptive LayerNorm as custom operators, without backward passes."""

from __future__ import annotations

from torch import Tensor

from kernels.adaptive_norm.reference import AdaptiveNormArgs, GatedNormArgs
from kernels.runtime.custom_op import launch_op
from kernels.runtime.device import MAX_GRID_YZ, triton_unsupported
from kernels.runtime.dispatch import Implementation

MAX_CHANNELS = 4096  # a row stays in registers

adaptive_norm = launch_op("adaptive_norm.adaptive_norm", AdaptiveNormArgs)
gated_adaptive_norm = launch_op("adaptive_norm.gated_adaptive_norm", GatedNormArgs, mutated="x")


@adaptive_norm.register_fake
def _(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x.new_empty(x.shape, dtype=shift.dtype)


@gated_adaptive_norm.register_fake
def _(x: Tensor, y: Tensor, bias: Tensor | None, gate: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x.new_empty(x.shape, dtype=shift.dtype)


def _unsupported(x: Tensor, *others: Tensor | None) -> str | None:
    if not 0 < x.shape[-1] <= MAX_CHANNELS:
        return f"C={x.shape[-1]} must be between 1 and {MAX_CHANNELS}"
    if x.shape[0] > MAX_GRID_YZ:
        return f"{x.shape[0]} items must be at most {MAX_GRID_YZ}"
    return triton_unsupported(x, *others, differentiable=False)


def _plain_unsupported(args: AdaptiveNormArgs) -> str | None:
    return _unsupported(*args)


def _gated_unsupported(args: GatedNormArgs) -> str | None:
    if not args.x.is_contiguous():
        return "x, which is updated in place, must be contiguous"
    return _unsupported(*args)


ADAPTIVE_NORM = Implementation.of_op(adaptive_norm, _plain_unsupported)
GATED_ADAPTIVE_NORM = Implementation.of_op(gated_adaptive_norm, _gated_unsupported)
