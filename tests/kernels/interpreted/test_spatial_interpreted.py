"""The preparation of queries and keys in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from tiles import tiled

from benchmarks.kernels.behaviour import poisoned
from kernels import rope_table, spatial_attention
from kernels.autotune.table import RowTile
from kernels.spatial_attention import launch, op
from kernels.spatial_attention.reference import SpatialArgs


def ours(*tensors, **options):
    return op.run(SpatialArgs(*tensors, **options))


def right(*tensors, **options):
    return spatial_attention.run_on("reference", *tensors, **options)


def results(function, *tensors, **options):
    """Return output and every gradient, the upstream one drawn from a fixed seed."""
    tensors = [x.detach().requires_grad_() for x in tensors]
    out = function(*tensors, **options)
    gradient = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.dtype)
    return out.detach(), *torch.autograd.grad(out, tensors, gradient)


def draw(batch=1, frames=1, height=2, width=3, heads=2, dim=16, dtype=torch.float32):
    """Draw q and kv as views of one projection, and both scales."""
    torch.manual_seed(0)
    qkv = torch.randn(batch, frames, height, width, 3, heads, dim).to(dtype)
    return qkv[..., 0, :, :], qkv[..., 1:, :, :], *(torch.rand(2, dim) + 0.5)


def compare(tensors, tolerance=2e-5, **options):
    with poisoned():
        found = results(ours, *tensors, **options)
    torch.testing.assert_close(found, results(right, *tensors, **options), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("shape", "rotated"), [((1, 2, 3, 5, 2, 16), True), ((2, 1, 4, 3, 3, 24), True), ((1, 1, 1, 3, 1, 72), False)]
)
def test_equals_the_reference(shape, rotated):
    compare(draw(*shape), rope=rope_table(*shape[2:4], shape[-1]) if rotated else None)


def test_bias():
    compare(draw(), bias=torch.randn(2, 6, 6))


def test_half_precision():
    compare(draw(dim=32, dtype=torch.float16), tolerance=4e-3, rope=rope_table(2, 3, 32))


def test_vectors_of_zero():
    q, kv, *scales = draw()
    q[:, :, 0, 1], kv[:, :, 1, 1] = 0, 0
    compare((q, kv, *scales), rope=rope_table(2, 3, 16))


@pytest.mark.parametrize("tile", [RowTile(4, 1), RowTile(64, 4)])
def test_tiles(tile):
    with tiled(launch, tile):
        compare(draw(frames=2), rope=rope_table(2, 3, 16))


def test_strided_heads():
    q, kv, *scales = draw()
    crossed = q.transpose(-1, -2).contiguous().transpose(-1, -2)
    torch.testing.assert_close(results(ours, crossed, kv, *scales), results(ours, q, kv, *scales))


def test_operator_passes_opcheck():
    x, scale, table = torch.randn(1, 6, 2, 16), torch.rand(16), rope_table(2, 3, 16)
    torch.library.opcheck(torch.ops.omnitok.cosine_backward.default, (torch.randn(1, 6, 2, 16), x, scale, *table))
    torch.library.opcheck(op.cosine, (x.requires_grad_(), scale.requires_grad_(), None, None))


def test_compiles_without_graph_breaks():
    tensors, rope = draw(), rope_table(2, 3, 16)
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(results(compiled, *tensors, rope=rope), results(ours, *tensors, rope=rope))
