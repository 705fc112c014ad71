"""The head's projection as a custom operator, without a backward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.projection.reference import ProjectArgs
from kernels.runtime.custom_op import launch_op
from kernels.runtime.device import triton_unsupported
from kernels.runtime.dispatch import Implementation

MAX_OUTPUTS = 32
MAX_CHANNELS = 2048  # a row stays in registers

vq_project = launch_op("projection.vq_project", ProjectArgs)


@vq_project.register_fake
def _(x: Tensor, norm_weight: Tensor | None, norm_bias: Tensor | None, weight: Tensor, *args: Any) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]), dtype=torch.float32)


def unsupported(args: ProjectArgs) -> str | None:
    """Return why the kernel cannot run this call, or None."""
    outputs, channels = args.weight.shape
    if outputs > MAX_OUTPUTS or channels > MAX_CHANNELS:
        return f"d={outputs} must be at most {MAX_OUTPUTS} and C={channels} at most {MAX_CHANNELS}"
    return triton_unsupported(*args[:-1], differentiable=False)


TRITON = Implementation.of_op(vq_project, unsupported)
