"""Launch of the head's projection: grid and tiles. Imports triton."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.autotune.table import ProblemSize, RowTile, TuningSpace, tuned_tile
from kernels.projection.reference import EPS, MIN_NORM, ProjectArgs
from kernels.projection.triton_kernels import project_kernel
from kernels.runtime.pdl import pdl_options

# each thread holds rows x channels / (32 x warps) values
DEFAULT_TILE = RowTile(rows=4, warps=1)
MAX_BLOCK_C = 256  # one warp loads them at once, and sums of a row stay within it


def vq_project(args: ProjectArgs) -> Tensor:
    """Run the operator."""
    x, norm_weight, norm_bias, weight, bias, unit = args
    x, weight, bias = x.contiguous(), weight.contiguous(), bias.contiguous()
    dim, channels = weight.shape
    rows = x.numel() // channels
    out = torch.empty((*x.shape[:-1], dim), dtype=torch.float32, device=x.device)
    if rows == 0:
        return out
    tile = tuned_tile("vq_project", x.dtype, rows, DEFAULT_TILE)
    with torch.cuda.device_of(x):
        project_kernel[(-(-rows // tile.rows),)](
            x,
            x if norm_weight is None else norm_weight.contiguous(),
            x if norm_bias is None else norm_bias.contiguous(),
            weight,
            bias,
            out,
            rows,
            EPS=EPS,
            MIN_NORM=MIN_NORM,
            C=channels,
            D=dim,
            NORM=norm_weight is not None,
            SHIFT=norm_weight is not None and norm_bias is not None,
            UNIT=unit,
            BLOCK_M=tile.rows,
            BLOCK_C=min(MAX_BLOCK_C, 1 << (channels - 1).bit_length()),
            num_warps=tile.warps,
            **pdl_options(x),
        )
    return out


def _draw(size: ProblemSize, dtype: torch.dtype, device: torch.device) -> tuple[ProjectArgs]:
    x = torch.randn((size.rows, size.channels), device=device, dtype=dtype)
    gain, shift = torch.randn((2, size.channels), device=device)
    weight, bias = torch.randn((size.code_dim, size.channels), device=device), torch.randn(size.code_dim, device=device)
    return (ProjectArgs(x, gain, shift, weight, bias),)


CANDIDATES = tuple(RowTile(*numbers) for numbers in ((1, 1), (2, 1), (4, 1), (8, 2), (8, 4), (16, 4)))
TUNING_SPACES = (TuningSpace("vq_project", CANDIDATES, _draw, vq_project),)
