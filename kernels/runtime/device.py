"""Where our Triton kernels can run at all, and what they take for granted there."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
LANES = 8  # neighbouring columns of a tensor core's result, of which four threads hold two each; they recur by so many

HAS_TRITON = find_spec("triton") is not None  # found, not imported: a CPU build of torch comes without it


@torch.compiler.assume_constant_result
def capability(index: int | None) -> tuple[int, int]:
    """Compute capability of a GPU."""
    return torch.cuda.get_device_capability(index)


def aligned(*tensors: Tensor) -> bool:
    """Return whether tensor descriptors can begin where these tensors do."""
    return all(tensor.data_ptr() % 16 == 0 for tensor in tensors)


def refuse_triton(*tensors: Tensor | None, dtypes: tuple[torch.dtype, ...] = DTYPES) -> str | None:
    """Say why Triton kernels cannot run on these tensors, or None if they can.

    Args:
        tensors: inputs of an operator, the main one first; None is skipped.
        dtypes: those that the kernels take.
    """
    if not HAS_TRITON:
        return "triton is not installed"
    for x in tensors:
        if x is None:
            continue
        if not x.is_cuda:
            return f"{x.device.type} tensors"
        if x.dtype not in dtypes:
            return f"{x.dtype} is not one of {', '.join(str(dtype).removeprefix('torch.') for dtype in dtypes)}"
        if capability(x.device.index) < (8, 0):
            return "the GPU is older than compute capability 8.0"
    return None
