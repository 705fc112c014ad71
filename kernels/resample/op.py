"""Resampling as a custom operator, without a backward pass."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.resample.reference import ResampleArgs, result_shape
from kernels.runtime.custom_op import launch_op
from kernels.runtime.device import MAX_GRID_YZ, triton_unsupported
from kernels.runtime.dispatch import Implementation

resample = launch_op("resample.resample", ResampleArgs)


@resample.register_fake
def _(*args: Tensor) -> Tensor:
    typed = ResampleArgs(*args)  # type: ignore[arg-type]
    return torch.empty(result_shape(typed), dtype=torch.uint8, device=typed.values.device)


def _unsupported(args: ResampleArgs) -> str | None:
    if len(args.start) > MAX_GRID_YZ:
        return f"{len(args.start)} pictures must be at most {MAX_GRID_YZ}"
    return triton_unsupported(args.values, dtypes=(torch.uint8,))


RESAMPLE = Implementation.of_op(resample, _unsupported)
