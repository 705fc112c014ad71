"""Code assignment in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tiles import tiled

from kernels.vq import CodeTable, launch, op
from kernels.vq.reference import AssignArgs


def draw(rows, codes, dim, dtype=torch.float32):
    torch.manual_seed(0)
    return F.normalize(torch.randn(rows, dim), dim=-1).to(dtype), torch.rand(codes, 1) * torch.randn(codes, dim)


def assign(*args):
    return op.vq_assign(AssignArgs(*args))


def exact(z, codebook):
    """Search in float64; argmin on the CPU returns the first of equal values."""
    return (z.double()[:, None] - codebook.double()).square().sum(-1).argmin(-1)


@pytest.mark.parametrize(
    ("rows", "codes", "dim", "dtype"),
    [
        (1, 1, 4, torch.float32),
        (7, 5, 8, torch.float16),
        (33, 300, 4, torch.float32),
        (18, 600, 8, torch.float32),
        (9, 257, 16, torch.float16),
        (9, 70, 32, torch.float32),
    ],
)
def test_equals_a_search_in_float64(rows, codes, dim, dtype):
    z, codebook = draw(rows, codes, dim, dtype)
    assert torch.equal(assign(z, codebook), exact(z, codebook))


@pytest.mark.parametrize("numbers", [(128, 256, 1, 8, 3), (64, 128, 3, 4, 3), (16, 256, 2, 4, 2)])
def test_tiles_and_shares_agree(numbers):
    z, codebook = draw(140, 700, 8)
    with tiled(launch, launch.Tile(*numbers)):
        found = assign(z, codebook)
    assert torch.equal(found, exact(z, codebook))


def test_a_prepared_table_gives_equal_indices():
    z, codebook = draw(20, 300, 8)
    table = CodeTable(*op.pack_codebook(codebook))
    assert torch.equal(assign(z, codebook, table), exact(z, codebook))


def test_the_lowest_of_equal_codes_in_two_shares_wins():
    z, codebook = draw(24, 128, 8)
    table = launch.vq_prepare(torch.cat((codebook, codebook, codebook.flip(0), codebook)))
    with tiled(launch, launch.Tile(32, 128, 4, 4, 2)):
        assert torch.equal(launch.vq_assign(z, *table, 512), exact(z, codebook))


@pytest.mark.parametrize("length", [1e-6, 1e-3, 100.0, 1e4])
def test_codes_of_any_length(length):
    """Lengths include those below float16's least number and above its largest."""
    z, codebook = draw(20, 300, 8)
    assert torch.equal(assign(length * z, length * codebook), exact(length * z, length * codebook))
    mixed = torch.cat((codebook, length * codebook))
    assert torch.equal(assign(z, mixed), exact(z, mixed))


def test_vectors_too_long_for_half_precision():
    z, codebook = draw(20, 300, 8)
    z[::2] *= 1e6
    distances = (z.double()[:, None] - codebook.double()).norm(dim=-1)
    chosen = distances.gather(1, assign(z, codebook)[:, None])[:, 0]
    assert ((chosen - distances.min(1).values) / chosen).max() < 1e-6


def test_the_lowest_of_equal_codes_wins():
    z, codebook = draw(24, 96, 8)
    repeated = torch.cat((codebook, codebook.flip(0), codebook))
    assert torch.equal(assign(z, repeated), exact(z, codebook))
    assert not assign(z, torch.ones(70, 8)).any()


def test_near_ties_are_decided_by_exact_differences():
    """Pairs of codes are closer than the rounding of a score."""
    torch.manual_seed(0)
    codebook = F.normalize(torch.randn(256, 8), dim=-1)
    codebook = torch.cat((codebook, codebook + 3e-7 * torch.randn_like(codebook)))
    z = F.normalize(codebook[:64] + 0.05 * torch.randn(64, 8), dim=-1)
    distances = (z.double()[:, None] - codebook.double()).norm(dim=-1)
    chosen = distances.gather(1, assign(z, codebook)[:, None])[:, 0]
    assert ((chosen - distances.min(1).values) / chosen).max() < 1e-6


def test_nan_and_infinity_give_valid_indices():
    z, codebook = draw(9, 40, 8)
    z[0], z[1, 3], z[2] = torch.nan, torch.inf, 0
    found = assign(z, codebook)
    assert ((found >= 0) & (found < 40)).all()
    assert torch.equal(found[2:], exact(z, codebook)[2:])


def test_leading_shapes_and_strides():
    z, codebook = draw(24, 50, 8)
    wanted = assign(z, codebook)
    assert torch.equal(assign(z.view(2, 1, 3, 4, 8), codebook), wanted.view(2, 1, 3, 4))
    assert torch.equal(assign(z.T.contiguous().T, codebook.T.contiguous().T), wanted)
    assert assign(z[:0], codebook).shape == (0,)


def test_operator_passes_opcheck():
    z, codebook = draw(5, 40, 8)
    torch.library.opcheck(op.assign, (z, *op.pack_codebook(codebook), 40))
    assert [part.shape for part in op.pack_codebook(codebook)] == [part.shape for part in launch.empty_table(codebook)]


def test_compiles_without_graph_breaks_and_stops_gradients():
    z, codebook = draw(5, 40, 8)
    compiled = torch.compile(assign, fullgraph=True, backend="aot_eager")
    found = compiled(z.requires_grad_(), codebook.requires_grad_())
    assert torch.equal(found, exact(z, codebook))
    assert not found.requires_grad
