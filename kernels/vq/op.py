"""Code assignment as a custom operator: opaque to the compiler, without a gradient.

The launch is imported when it is first called, since a machine without a GPU need not have triton.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.hardware import refuse_triton

DIMS = (4, 8, 16, 32)


@torch.library.custom_op("omnitok::vq_assign", mutates_args=())
def assign(z: Tensor, codebook: Tensor) -> Tensor:
    """The operator; arguments as `reference.vq_assign`'s."""
    from kernels.vq import launch

    return launch.assign(z, codebook)


@assign.register_fake
def _(z: Tensor, codebook: Tensor) -> Tensor:
    return z.new_empty(z.shape[:-1], dtype=torch.int64)


def refuse(z: Tensor, codebook: Tensor) -> str | None:
    """Say why the kernel cannot run this call."""
    if codebook.shape[-1] not in DIMS:
        return f"codes of {codebook.shape[-1]} dimensions are not among {DIMS}"
    return refuse_triton(z, codebook)


def vq_assign(z: Tensor, codebook: Tensor) -> Tensor:
    """The operator on our kernel; indices have no gradient."""
    return assign(z.detach(), codebook.detach())
