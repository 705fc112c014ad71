"""Products with few rows as a custom operator, without a backward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.runtime.custom_op import launch_op
from kernels.runtime.device import DTYPES, capability, triton_unsupported
from kernels.runtime.dispatch import Implementation
from kernels.thin_linear.reference import MIN_COUNTERS, ThinArgs

MAX_ROWS = 256  # row tiles read the weight again
K_MULTIPLE = 16  # the loop over K of the tensor cores has no masks
MOMENTS_CAPABILITY = 9  # major, of the GPUs on which products with moments were timed
MOMENTS_ROWS = range(17, 33)  # of a step whose products keep moments; with more rows they were slower
PART_COLUMNS = 64  # of a part whose moments are kept: a tile has whole parts

# the second one writes moments, a mutated argument that every call must give
thin_linear = launch_op("thin_linear.thin_linear", ThinArgs)
thin_linear_with_moments = launch_op(
    "thin_linear.thin_linear", ThinArgs, name="thin_linear_with_moments", mutated="moments"
)


@thin_linear.register_fake
@thin_linear_with_moments.register_fake
def _(*flat: Any) -> Tensor:
    args = ThinArgs(*flat)
    dtype = torch.float32 if args.full_precision else args.x.dtype
    return args.x.new_empty((args.x.shape[0], args.weight.shape[0]), dtype=dtype)


def run(args: ThinArgs) -> Tensor:
    """Run the operator as torch knows it: a call without moments to write changes none of its arguments."""
    writes = args.moments is not None and args.residual is not None
    return (thin_linear_with_moments if writes else thin_linear)(*args)


def unsupported(args: ThinArgs) -> str | None:
    """Return why the kernel cannot run this call, or None."""
    x, weight, bias, residual, scale, normed, *_, counters, moments = args
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
    if moments is not None:
        if normed and residual is not None:
            return "moments are read and written by one call"
        row = x.shape[1] if normed else weight.shape[0]
        wanted = x.shape[0], row // PART_COLUMNS, 2
        if tuple(moments.shape) != wanted or row % PART_COLUMNS or not moments.is_contiguous():
            return f"moments of shape {tuple(moments.shape)} must be {wanted}, of {PART_COLUMNS} columns a part"
    return None


def moments_for(x: Tensor) -> Tensor | None:
    """Return memory for the moments of a step's activations, or None where products are faster without.

    Args:
        x: shape (R, K), the first activations of the step.
    """
    rows, width = x.shape
    if rows not in MOMENTS_ROWS or width % PART_COLUMNS or not x.is_cuda or x.dtype.itemsize != 2:
        return None
    if capability(x.device.index)[0] != MOMENTS_CAPABILITY:
        return None
    return x.new_empty((rows, width // PART_COLUMNS, 2), dtype=torch.float32)


TRITON = Implementation(run, unsupported)
