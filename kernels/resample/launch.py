"""Launches of resampling: grid and tiles. Imports triton."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.resample.reference import ResampleArgs, result_shape
from kernels.resample.triton_kernels import resample_kernel

# Neighbours in memory go to neighbouring threads: outputs of a row, or lines that lie across the columns.
ROW_TILE, COLUMN_TILE = (8, 64), (128, 8)
WARPS = 4


def resample(args: ResampleArgs) -> Tensor:
    """Run the operator."""
    out = torch.empty(result_shape(args), dtype=torch.uint8, device=args.values.device)
    if out.numel():
        lines, count = ROW_TILE if args.along_last else COLUMN_TILE
        outputs, taps = args.first.shape[1], args.weights.shape[1]
        blocks = -(-outputs // count) * -(-args.most_lines // lines)
        tensors = (tensor.contiguous() for tensor in args if isinstance(tensor, Tensor))
        with torch.cuda.device_of(args.values):
            resample_kernel[(blocks, len(args.start))](
                *tensors, out, outputs, taps, args.inner, args.most_lines,
                ALONG_LAST=args.along_last, LINES=lines, COUNT=count, num_warps=WARPS,
            )  # fmt: skip
    return out
