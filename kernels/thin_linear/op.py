"""Products with few rows as a custom operator, without a backward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.runtime.custom_op import launch_op
from kernels.runtime.device import DTYPES, triton_unsupported
from kernels.runtime.dispatch import Implementation
from kernels.thin_linear.reference import MIN_COUNTERS, ThinArgs

MAX_ROWS = 256  # row tiles read the weight again
K_MULTIPLE = 16  # the loop over K of the tensor cores has no masks

thin_linear = launch_op("thin_linear.thin_linear", ThinArgs)


@thin_linear.register_fake
def _(*flat: Any) -> Tensor:
    args = ThinArgs(*flat)
    dtype = torch.float32 if args.full_precision else args.x.dtype
    return args.x.new_empty((args.x.shape[0], args.weight.shape[0]), dtype=dtype)


def unsupported(args: ThinArgs) -> str | None:
    """Return why the kernel cannot run this call, or None."""
    x, weight, bias, residual, scale, counters = (
        args.x,
        args.weight,
        args.bias,
        args.residual,
        args.scale,
        args.counters,
    )
    if (reason := triton_unsupported(x, bias, residual, scale, differentiable=False)) is not None:
        return reason
    if (reason := triton_unsupported(weight, dtypes=(*DTYPES, torch.int8), differentiable=False)) is not None:
        return reason
    if x.dim() != 2 or weight.dim() != 2 or x.shape[1] != weight.shape[1]:
        return f"shapes {tuple(x.shape)} and {tuple(weight.shape)} must be matrices (R, K) and (N, K)"
    if weight.dtype not in (x.dtype, torch.int8):
        return f"the weight's {weight.dtype} must be the inputs' {x.dtype}, or int8"
    if x.dtype == torch.float32:
        return "torch multiplies float32 faster and rounds less"
    if x.shape[0] > MAX_ROWS:
        return f"R={x.shape[0]} must be at most {MAX_ROWS}"
    if x.shape[1] == 0 or x.shape[1] % K_MULTIPLE:
        return f"K={x.shape[1]} must be a multiple of {K_MULTIPLE}"
    if counters is not None and counters.numel() < MIN_COUNTERS:
        return f"{counters.numel()} counters must be at least {MIN_COUNTERS}"
    return None


TRITON = Implementation.of_op(thin_linear, unsupported)
