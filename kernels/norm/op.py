"""LayerNorm and its divisor as custom operators, without backward passes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.norm.reference import DeviationArgs, LayerNormArgs
from kernels.runtime.custom_op import launch_op
from kernels.runtime.device import triton_unsupported
from kernels.runtime.dispatch import Implementation

MAX_CHANNELS = 1024  # a row stays in registers

inverse_deviation = launch_op("norm.inverse_deviation", DeviationArgs)
layer_norm = launch_op("norm.layer_norm", LayerNormArgs)


@inverse_deviation.register_fake
def _(x: Tensor, *args: Any) -> Tensor:
    return torch.empty(x.shape[:-1], dtype=torch.float32, device=x.device)


@layer_norm.register_fake
def _(x: Tensor, *args: Any) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


def _unsupported(x: Tensor, *weights: Tensor | None) -> str | None:
    if not 0 < x.shape[-1] <= MAX_CHANNELS:
        return f"C={x.shape[-1]} must be between 1 and {MAX_CHANNELS}"
    return triton_unsupported(x, *weights, differentiable=False)


def _deviation_unsupported(args: DeviationArgs) -> str | None:
    return _unsupported(args.x)


def _layer_norm_unsupported(args: LayerNormArgs) -> str | None:
    return _unsupported(args.x, args.weight, args.bias)


INVERSE_DEVIATION = Implementation.of_op(inverse_deviation, _deviation_unsupported)
LAYER_NORM = Implementation.of_op(layer_norm, _layer_norm_unsupported)
