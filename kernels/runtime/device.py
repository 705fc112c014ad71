"""Requirements of the Triton kernels, and the properties of GPUs on which they rely."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

from kernels.runtime.constant import constant_in_graphs

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
MIN_CAPABILITY = (8, 0)
MAX_GRID_YZ = 65_535  # programs along the second or third axis of a grid
MMA_COLUMNS = 8  # period of a thread's columns in a tensor core's result; four threads hold two each

HAS_TRITON = find_spec("triton") is not None  # found, not imported: a CPU build of torch comes without it


@constant_in_graphs
def capability(index: int | None) -> tuple[int, int]:
    """Return the compute capability of a GPU."""
    return torch.cuda.get_device_capability(index)


def aligned(*tensors: Tensor) -> bool:
    """Return whether these tensors meet the alignment of tensor descriptors."""
    return all(tensor.data_ptr() % 16 == 0 for tensor in tensors)


def triton_unsupported(
    *tensors: Tensor | None, dtypes: tuple[torch.dtype, ...] = DTYPES, differentiable: bool = True
) -> str | None:
    """Return why Triton kernels cannot run on these tensors, or None.

    Args:
        tensors: inputs of an operator, the main one first; None is skipped.
        dtypes: those that the kernels take.
        differentiable: whether the operator has a backward pass.
    """
    if not differentiable and torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors):
        return "an input requires gradients and the kernel has no backward pass"
    if not HAS_TRITON:
        return "triton is not installed"
    for x in tensors:
        if x is None:
            continue
        if not x.is_cuda:
            return f"the tensors are on {x.device.type}, not on a GPU"
        if x.dtype not in dtypes:
            return f"{x.dtype} must be one of {', '.join(str(dtype) for dtype in dtypes)}"
        if (found := capability(x.device.index)) < MIN_CAPABILITY:
            return f"compute capability {found[0]}.{found[1]} is below {MIN_CAPABILITY[0]}.{MIN_CAPABILITY[1]}"
    return None
