"""The head's projection as a custom operator: opaque to the compiler, without a gradient.

The launch is imported when it is first called, since a machine without a GPU need not have triton.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.runtime.device import triton_unsupported

MAX_OUTPUTS = 32
MAX_CHANNELS = 2048  # of a row that registers hold


@torch.library.custom_op("omnitok::vq_project", mutates_args=())
def project(
    x: Tensor, norm_weight: Tensor | None, norm_bias: Tensor | None, weight: Tensor, bias: Tensor, unit: bool
) -> Tensor:
    """The operator; arguments as `reference.vq_project`'s."""
    from kernels.projection import launch

    return launch.project(x, norm_weight, norm_bias, weight, bias, unit)


@project.register_fake
def _(
    x: Tensor, norm_weight: Tensor | None, norm_bias: Tensor | None, weight: Tensor, bias: Tensor, unit: bool
) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]), dtype=torch.float32)


def unsupported(
    x: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    unit: bool = True,
) -> str | None:
    """Say why the kernel cannot run this call."""
    tensors = [t for t in (x, norm_weight, norm_bias, weight, bias) if t is not None]
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        return "it has no gradient"
    if weight.shape[0] > MAX_OUTPUTS or weight.shape[1] > MAX_CHANNELS:
        return f"{weight.shape[1]} channels to {weight.shape[0]} are more than {MAX_CHANNELS} to {MAX_OUTPUTS}"
    return triton_unsupported(*tensors)


def vq_project(
    x: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    unit: bool = True,
) -> Tensor:
    """The operator on our kernel."""
    return project(x, norm_weight, None if norm_weight is None else norm_bias, weight, bias, unit)
