"""Launches of the fused products: grids and tiles. Imports triton."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor  # type: ignore[import-untyped]

from kernels.autotune.table import ProblemSize, TuningSpace, tuned_tile
from kernels.linear.reference import AttentionInputsArgs, GatedArgs, ResidualArgs
from kernels.linear.triton_kernels import attention_inputs_kernel, gated_linear_kernel, residual_linear_kernel
from kernels.runtime.device import aligned
from kernels.runtime.pdl import pdl_options
from kernels.spatial_attention.rope import rope_table


@dataclass(frozen=True)
class Tile:
    """The tile of one program, and its execution.

    Args:
        rows, columns: of the tile; half of a gated product's columns are gates.
        inner: step along K; the launch halves it until it divides K.
        descriptors: use the tensor memory accelerator (compute capability 9.0 and later).
        halved: store a tile through descriptors in two halves, which frees shared memory for another stage.
        warps, stages: of a program, and of its pipeline of loads.
        programs: number of persistent programs, which need descriptors; 0 for one program a tile.
    """

    rows: int
    columns: int
    inner: int = 64
    descriptors: bool = False
    halved: bool = False
    warps: int = 4
    stages: int = 3
    programs: int = 0


FLOAT32_TILE = Tile(32, 64, inner=32, warps=4, stages=2)  # float32 does not use tensor cores
SMALL_MAX_ROWS, MEDIUM_MAX_ROWS = 2048, 4096


def gated_linear(args: GatedArgs) -> Tensor:
    """Run the operator."""
    x, rstd, weight, shift = (tensor.contiguous() for tensor in args)
    columns = weight.shape[0]
    out = torch.empty((x.shape[0], columns // 2), dtype=x.dtype, device=x.device)
    if out.numel():
        tile = tuned_tile("gated_linear", x.dtype, x.shape[0], _wide_default(x))
        grid, pair, constants = _geometry(x, weight, columns, tile)
        written = _written(out, tile.columns // 2, tile, constants["DESCRIPTORS"])
        with torch.cuda.device_of(x):
            gated_linear_kernel[grid](
                pair[0], rstd, pair[1], shift, written, x.shape[0],
                N=columns // 2, EXACT=x.dtype != torch.bfloat16, HALVED=tile.halved, **constants,
            )  # fmt: skip
    return out


def attention_inputs(args: AttentionInputsArgs) -> Tensor:
    """Run the operator."""
    x, rstd, weight, normed, cos, sin, q_scale, k_scale, heads, shift = args
    x, weight, width = x.contiguous(), weight.contiguous(), weight.shape[0] // 3
    out = torch.empty((x.shape[0], 3, heads, width // heads), dtype=x.dtype, device=x.device)
    if out.numel():
        name = "attention_inputs" if q_scale is None else "attention_inputs.cosine"
        tile = tuned_tile(name, x.dtype, x.shape[0], _wide_default(x))
        while width % tile.columns:  # a tile must not span queries and keys, or keys and values
            tile = replace(tile, columns=tile.columns // 2)
        grid, pair, constants = _geometry(x, weight, 3 * width, tile)
        written = _written(out.view(len(x), -1), tile.columns, tile, constants["DESCRIPTORS"])
        tables = [x if table is None else table.contiguous() for table in (shift, cos, sin, q_scale, k_scale)]
        with torch.cuda.device_of(x):
            attention_inputs_kernel[grid](
                pair[0], x if rstd is None else rstd.contiguous(), pair[1], *tables, written, x.shape[0],
                1 if cos is None else cos.shape[0],
                WIDTH=width, DIM=width // heads, NORMED=normed // width, SHIFTED=shift is not None,
                COSINE=q_scale is not None, ROTATED=cos is not None, HALVED=tile.halved, **constants,
            )  # fmt: skip
    return out


def residual_linear(args: ResidualArgs) -> Tensor:
    """Run the operator."""
    a, weight, bias, residual = args
    a, weight, columns = a.contiguous(), weight.contiguous(), weight.shape[0]
    out = torch.empty((a.shape[0], columns), dtype=a.dtype, device=a.device)
    if out.numel():
        tile = tuned_tile("residual_linear", a.dtype, a.shape[0], _residual_default(a))
        grid, pair, constants = _geometry(a, weight, columns, tile)
        with torch.cuda.device_of(a):
            residual_linear_kernel[grid](
                *pair, a if bias is None else bias.contiguous(), residual.contiguous(), out, a.shape[0],
                N=columns, BIASED=bias is not None, **constants,
            )  # fmt: skip
    return out


def _wide_default(x: Tensor) -> Tile:
    if x.dtype == torch.float32:
        return FLOAT32_TILE
    if x.shape[0] <= SMALL_MAX_ROWS:
        return Tile(64, 128, warps=4, stages=4)
    return Tile(128, 128, warps=4, stages=3)


def _residual_default(x: Tensor) -> Tile:
    if x.dtype == torch.float32:
        return FLOAT32_TILE
    if x.shape[0] <= SMALL_MAX_ROWS:
        return Tile(64, 64, warps=4, stages=4)
    if x.shape[0] <= MEDIUM_MAX_ROWS:
        return Tile(128, 64, warps=4, stages=4)
    return Tile(128, 128, warps=4, stages=3)


def _geometry(
    x: Tensor, weight: Tensor, columns: int, tile: Tile
) -> tuple[tuple[int], tuple[Any, Any], dict[str, Any]]:
    """Return the grid, x and the weight as pointers or descriptors, and compile-time constants."""
    while x.shape[1] % tile.inner:
        tile = replace(tile, inner=tile.inner // 2)
    tiles = -(-x.shape[0] // tile.rows) * -(-columns // tile.columns)
    described = tile.descriptors and aligned(x, weight)
    persistent = described and tile.programs > 0
    pair: tuple[Any, Any] = (x, weight)
    if described:
        pair = (
            TensorDescriptor.from_tensor(x, [tile.rows, tile.inner]),
            TensorDescriptor.from_tensor(weight, [tile.columns, tile.inner]),
        )
    constants = {
        "K": x.shape[1],
        "BLOCK_M": tile.rows,
        "BLOCK_N": tile.columns,
        "BLOCK_K": tile.inner,
        "PERSISTENT": persistent,
        "DESCRIPTORS": described,
        "PRECISION": "ieee",
        "num_warps": tile.warps,
        "num_stages": tile.stages,
        **pdl_options(x),
    }
    return (min(tiles, tile.programs) if persistent else tiles,), pair, constants


def _written(out: Tensor, columns: int, tile: Tile, described: bool) -> Any:
    """Return the output (M, N) as a pointer or descriptor for stores of `columns` columns, or half of them."""
    if not described:
        return out
    return TensorDescriptor.from_tensor(out, [tile.rows, columns // 2 if tile.halved else columns])


def _draw_gated(size: ProblemSize, dtype: torch.dtype, device: torch.device) -> tuple[GatedArgs]:
    return (GatedArgs(*_draw(size, 2 * size.hidden, dtype, device)),)


def _draw_inputs(
    cosine: bool, size: ProblemSize, dtype: torch.dtype, device: torch.device
) -> tuple[AttentionInputsArgs]:
    x, _, weight, _ = _draw(size, 3 * size.channels, dtype, device)
    rope = rope_table(size.height, size.width, size.head_dim, device)
    scale = torch.rand(size.head_dim, device=device) + 0.5
    scales, cos, sin = (scale, rope.cos, rope.sin) if cosine else (None, None, None)
    return (AttentionInputsArgs(x, None, weight, 0, cos, sin, scales, scales, size.heads),)


def _draw_residual(size: ProblemSize, dtype: torch.dtype, device: torch.device) -> tuple[ResidualArgs]:
    a, residual = (torch.randn((size.rows, size.channels), device=device, dtype=dtype) for _ in range(2))
    weight = torch.randn((size.channels, size.channels), device=device, dtype=dtype) * size.channels**-0.5
    return (ResidualArgs(a, weight, None, residual),)


def _draw(size: ProblemSize, columns: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    """Draw rows, their inverse deviations, a weight and a shift."""
    x = torch.randn((size.rows, size.channels), device=device, dtype=dtype)
    weight = torch.randn((columns, size.channels), device=device, dtype=dtype) * size.channels**-0.5
    return x, torch.ones(size.rows, device=device), weight, torch.randn(columns, device=device)


CANDIDATES = (
    Tile(64, 64, warps=4, stages=4),
    Tile(64, 128, warps=4, stages=4),
    Tile(128, 64, warps=4, stages=4),
    Tile(128, 128, warps=4, stages=3),
    Tile(64, 64, warps=4, stages=4, descriptors=True),
    Tile(64, 128, warps=4, stages=4, descriptors=True),
    Tile(128, 128, warps=4, stages=3, descriptors=True),
    Tile(128, 128, warps=4, stages=3, programs=264, descriptors=True),
    Tile(128, 128, warps=8, stages=4, programs=132, descriptors=True),
    Tile(128, 256, warps=8, stages=3, programs=132, descriptors=True),
)
# its stages leave shared memory for half a tile of results, which gating or `halved` makes
DEEP_TILE = Tile(128, 256, warps=8, stages=4, programs=132, descriptors=True)
INPUTS_CANDIDATES = (*CANDIDATES, replace(DEEP_TILE, halved=True))
TUNING_SPACES = (
    TuningSpace("gated_linear", (*CANDIDATES, DEEP_TILE), _draw_gated, gated_linear),
    TuningSpace("attention_inputs", INPUTS_CANDIDATES, partial(_draw_inputs, False), attention_inputs),
    TuningSpace("attention_inputs.cosine", CANDIDATES, partial(_draw_inputs, True), attention_inputs),
    TuningSpace("residual_linear", CANDIDATES, _draw_residual, residual_linear),
)
