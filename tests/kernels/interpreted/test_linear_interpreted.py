"""The fused products in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tiles import tiled

from benchmarks.kernels.behaviour import poisoned
from kernels.linear import fold, launch, op, reference
from kernels.spatial_attention import rope_table
from kernels.spatial_attention.reference import cosine
from kernels.spatial_attention.rope import RopeTable

WIDTH = 64
TOLERANCE = {torch.float32: 3e-5, torch.float16: 4e-3}
TILES = [
    launch.Tile(16, 64),
    launch.Tile(32, 64, inner=32),
    launch.Tile(16, 64, descriptors=True),
    launch.Tile(16, 64, programs=2, descriptors=True),
    launch.Tile(16, 64, programs=5, descriptors=True, halved=True),
]


def normal(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def layer_norm(rows, columns, dtype=torch.float32, width=WIDTH):
    """Draw rows, their inverse deviations, a product with LayerNorm folded in, and the expected result."""
    x = (2 * normal(rows, width) + 0.7).to(dtype)
    norm_weight, norm_bias = 1 + 0.2 * normal(width, seed=1), 0.3 * normal(width, seed=2)
    weight, bias = normal(columns, width, seed=3) / width**0.5, normal(columns, seed=4)
    wide = x.float()
    rstd = (wide.var(1, correction=0) + 1e-5).rsqrt()
    normed = F.layer_norm(wide, (width,), norm_weight, norm_bias)
    return x, rstd, fold(norm_weight, norm_bias, weight, bias, dtype), F.linear(normed, weight, bias)


def close(ours, right, dtype):
    torch.testing.assert_close(ours.float(), right.float(), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def attention_args(rows=37, heads=2, parts=1, grid=(5, 7), scaled=True, dtype=torch.float32, shifted=True):
    width = 64 * heads
    x, rstd, folded, _ = layer_norm(rows, 3 * width, dtype)
    rope = rope_table(*grid, 64) if grid else (None, None)
    scales = [0.5 + normal(64, seed=seed).abs() for seed in (5, 6)] if scaled else [None, None]
    return reference.AttentionInputsArgs(
        x,
        rstd if parts else None,
        folded.weight,
        parts * width,
        *rope,
        *scales,
        heads,
        folded.shift if shifted else None,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_folded_layer_norm_equals_layer_norm(dtype):
    x, rstd, folded, right = layer_norm(33, 2 * 96, dtype)
    value, gate = reference.split_gates(right)
    with poisoned():
        ours = op.gated_linear(x, rstd, *folded)
    assert ours.dtype == dtype
    close(ours, value * F.gelu(gate), dtype)


@pytest.mark.parametrize("tile", TILES, ids=str)
@pytest.mark.parametrize(("rows", "columns"), [(1, 64), (37, 96)])
def test_gated_tiles(tile, rows, columns):
    x, rstd, folded, _ = layer_norm(rows, 2 * columns, width=128)
    with poisoned(), tiled(launch, tile):
        ours = launch.gated_linear(reference.GatedArgs(x, rstd, *folded))
    close(ours, reference.gated_linear(reference.GatedArgs(x, rstd, *folded)), torch.float32)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"grid": None},
        {"scaled": False, "grid": None, "parts": 3},
        {"scaled": False, "grid": None, "parts": 0, "heads": 3},
        {"parts": 3, "heads": 1, "shifted": False},
        {"dtype": torch.float16},
    ],
    ids=str,
)
def test_attention_inputs_equal_the_reference(options):
    args = attention_args(**options)
    with poisoned():
        ours = op.attention_inputs(*args)
    assert ours.shape == (37, 3, options.get("heads", 2), 64)
    close(ours, reference.attention_inputs(args), options.get("dtype", torch.float32))


@pytest.mark.parametrize("tile", [*TILES, launch.Tile(16, 128), launch.Tile(16, 256)], ids=str)
def test_attention_tiles(tile):
    args = attention_args()
    with poisoned(), tiled(launch, tile):
        ours = launch.attention_inputs(args)
    close(ours, reference.attention_inputs(args), torch.float32)


def test_only_queries_are_normalised():
    x, rstd, folded, right = layer_norm(70, 3 * 64)
    raw = normal(2 * 64, WIDTH, seed=7)
    weight = torch.cat((folded.weight[:64], raw))
    rope, scales = rope_table(5, 7, 64), [0.5 + normal(64, seed=seed).abs() for seed in (5, 6)]
    twice = RopeTable(*(table.repeat(2, 1) for table in rope))  # two frames
    q, k, v = op.attention_inputs(x, rstd, weight, 64, *rope, *scales, 1, folded.shift).unbind(1)
    keys, values = (x @ raw.T).unflatten(1, (2, 1, 64)).unbind(1)
    close(q, cosine(right[:, :64].unflatten(1, (1, 64)), scales[0], twice), torch.float32)
    close(k, cosine(keys, scales[1], twice), torch.float32)
    close(v, values, torch.float32)


def test_vectors_of_zero_stay_zero():
    args = attention_args(parts=0)
    args = args._replace(x=torch.zeros_like(args.x))
    assert not op.attention_inputs(*args).any()


@pytest.mark.parametrize("tile", [None, *TILES], ids=str)
@pytest.mark.parametrize("biased", [True, False])
def test_residual(tile, biased):
    bias = normal(96, seed=3) if biased else None
    args = reference.ResidualArgs(normal(37, 128), normal(96, 128, seed=1) / 11, bias, normal(37, 96, seed=2))
    with poisoned(), tiled(launch, tile):
        ours = launch.residual_linear(args)
    close(ours, reference.residual_linear(args), torch.float32)


def test_inner_steps_are_halved_until_they_divide():
    args = reference.ResidualArgs(normal(8, 192), normal(64, 192, seed=1), None, normal(8, 64, seed=2))
    with tiled(launch, launch.Tile(16, 64, inner=128)):
        ours = launch.residual_linear(args)
    close(ours, reference.residual_linear(args), torch.float32)


def test_gelu_in_half_precision_is_accurate():
    """Identity rows make the gates a sweep; values are 1."""
    gates = torch.linspace(-9, 9, 64 * 64).view(64, 64).half()
    weight = reference.interleave_gates(torch.cat((torch.zeros(64, 64), torch.eye(64)))).half()
    shift = reference.interleave_gates(torch.cat((torch.ones(64), torch.zeros(64))))
    found = op.gated_linear(gates, torch.ones(64), weight, shift).double()
    torch.testing.assert_close(found, F.gelu(gates.double()), rtol=2**-11 + 1e-5, atol=3e-7)


def test_misaligned_rows_do_not_use_descriptors():
    a = normal(16 * 64 + 1)[1:].view(16, 64)
    args = reference.ResidualArgs(a, normal(64, 64, seed=1), None, normal(16, 64, seed=2))
    with tiled(launch, launch.Tile(16, 64, descriptors=True)):
        ours = launch.residual_linear(args)
    close(ours, reference.residual_linear(args), torch.float32)


def test_empty_inputs():
    x, rstd, folded, _ = layer_norm(1, 128)
    assert op.gated_linear(x[:0], rstd[:0], *folded).shape == (0, 64)


def test_operators_pass_opcheck():
    x, rstd, folded, _ = layer_norm(5, 128)
    torch.library.opcheck(op.gated_linear, (x, rstd, *folded))
    torch.library.opcheck(op.attention_inputs, attention_args(rows=5, heads=1))
    torch.library.opcheck(op.residual_linear, (x, folded.weight, None, normal(5, 128)))
