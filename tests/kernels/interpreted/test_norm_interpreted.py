"""LayerNorm in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from tiles import tiled

from benchmarks.kernels.behaviour import poisoned
from kernels.autotune.table import RowTile
from kernels.norm import launch, op
from kernels.norm.reference import DeviationArgs, LayerNormArgs, inverse_deviation, layer_norm


def draw(*shape, dtype=torch.float32, offset=0.0):
    torch.manual_seed(0)
    return (torch.randn(shape) + offset).to(dtype), torch.rand(shape[-1]) + 0.5, torch.randn(shape[-1])


def compare(x, weight, bias, tolerance=2e-6, **options):
    with poisoned():
        ours = op.layer_norm(x, weight, bias, **options), op.inverse_deviation(x, **options)
    right = [layer_norm(LayerNormArgs(x.double(), weight, bias, **options)).to(x.dtype)]
    right += [inverse_deviation(DeviationArgs(x.double(), **options)).float()]
    torch.testing.assert_close(list(ours), right, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (7, 72), (5, 512), (2, 3, 683), (2, 1024)], ids=str)
def test_shapes(shape):
    compare(*draw(*shape))


def test_no_bias():
    x, weight, _ = draw(5, 40)
    compare(x, weight, None)


def test_other_epsilon():
    compare(*draw(5, 40), eps=0.25)


def test_half_precision():
    compare(*draw(6, 96, dtype=torch.float16), tolerance=1e-3)


def test_a_mean_far_from_zero_does_not_cancel():
    x, *_ = draw(3, 256, offset=3000.0)
    found = op.inverse_deviation(x)
    torch.testing.assert_close(found, inverse_deviation(DeviationArgs(x.double())).float(), rtol=1e-4, atol=0)


def test_equal_values():
    compare(torch.full((2, 48), 0.5), torch.ones(48), torch.arange(48.0))


@pytest.mark.parametrize("tile", [(1, 1), (4, 1), (8, 4)], ids=str)
def test_tiles(tile):
    x, weight, bias = draw(9, 70)
    with tiled(launch, RowTile(*tile)):
        compare(x, weight, bias)


def test_strided_rows():
    x, weight, bias = draw(6, 80)
    compare(x[::2, ::2], weight[::2], bias[::2])


def test_empty_inputs():
    x, weight, bias = draw(0, 16)
    assert op.layer_norm(x, weight, bias).shape == (0, 16)
    assert op.inverse_deviation(x).shape == (0,)


def test_operators_pass_opcheck():
    x, weight, bias = draw(3, 24)
    torch.library.opcheck(op.layer_norm, (x, weight, bias, 1e-5))
    torch.library.opcheck(op.layer_norm, (x, weight, None, 1e-5))
    torch.library.opcheck(op.inverse_deviation, (x, 1e-5))


def test_compiles_without_graph_breaks():
    x, weight, bias = draw(3, 24)
    compiled = torch.compile(op.layer_norm, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x, weight, bias), op.layer_norm(x, weight, bias))
