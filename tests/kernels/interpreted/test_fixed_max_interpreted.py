"""Attention with a fixed maximum in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tiles import tiled

from benchmarks.kernels.behaviour import poisoned
from kernels import EXPONENT_SCALE, attention_fixed_max
from kernels.attention_fixed_max import launch, op
from kernels.attention_fixed_max.reference import FixedMaxArgs

TILES = [launch.Tile(16, 16), launch.Tile(16, 32, descriptors=True), launch.Tile(32, 16, stages=1)]
BOUND = 12.0


def draw(frames=2, positions=24, heads=2, dim=16, scale=EXPONENT_SCALE):
    qkv = torch.randn((frames * positions, 3, heads, dim), generator=torch.Generator().manual_seed(0))
    qkv[:, :2] = F.normalize(qkv[:, :2], dim=-1)
    qkv[:, 0] *= scale
    return qkv, positions


def compare(qkv, positions, tile=None):
    with poisoned(), tiled(launch, tile):
        ours = launch.attention_fixed_max(FixedMaxArgs(qkv, positions, BOUND))
    right = attention_fixed_max.run_on("reference", qkv.double(), positions, BOUND).float()
    torch.testing.assert_close(ours, right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tile", TILES, ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (2, 24), (3, 32), (1, 65)], ids=str)
def test_tiles_and_ragged_frames(tile, shape):
    compare(*draw(*shape), tile)


@pytest.mark.parametrize(("heads", "dim"), [(1, 64), (3, 32)])
def test_heads(heads, dim):
    compare(*draw(heads=heads, dim=dim))


def test_largest_supported_exponents():
    """One frame has only the smallest powers of two, the other only the largest."""
    qkv, positions = draw(scale=op.MAX_EXPONENT)
    direction = torch.zeros(16)
    direction[0] = 1
    qkv[:, 1] = direction
    qkv[:positions, 0], qkv[positions:, 0] = op.MAX_EXPONENT * direction, -op.MAX_EXPONENT * direction
    compare(qkv, positions)


@pytest.mark.parametrize("tile", TILES, ids=str)
def test_frames_are_independent(tile):
    """A tile of keys that reaches into the next frame does not read its NaN."""
    qkv, positions = draw(frames=3, positions=20)
    with tiled(launch, tile):
        whole = launch.attention_fixed_max(FixedMaxArgs(qkv, positions, BOUND))
        qkv[positions : 2 * positions] = torch.nan
        changed = launch.attention_fixed_max(FixedMaxArgs(qkv, positions, BOUND))
    assert torch.equal(changed[:positions], whole[:positions])
    assert torch.equal(changed[2 * positions :], whole[2 * positions :])


def test_misaligned_rows_do_not_use_descriptors():
    qkv, positions = draw()
    moved = torch.cat((torch.zeros(1), qkv.flatten()))[1:].view_as(qkv)
    compare(moved, positions, TILES[1])


def test_empty_inputs():
    assert op.attend(torch.zeros(0, 3, 2, 16), 4, BOUND).shape == (0, 2, 16)


def test_operator_passes_opcheck():
    torch.library.opcheck(op.attend, (*draw(), BOUND))
