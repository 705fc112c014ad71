"""The kernels of diffusion transformers in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from tiles import tiled

from benchmarks.kernels.behaviour import poisoned
from kernels.adaptive_norm import launch as norm_launch
from kernels.adaptive_norm import op as norm_op
from kernels.adaptive_norm.reference import AdaptiveNormArgs, GatedNormArgs, adaptive_norm, gated_adaptive_norm
from kernels.autotune.table import RowTile
from kernels.frame_attention import launch as frame_launch
from kernels.frame_attention import library, op
from kernels.frame_attention.reference import FrameArgs, frame_attention
from kernels.sequence_attention import launch as sequence_launch
from kernels.sequence_attention import library as sequence_library
from kernels.sequence_attention import op as sequence_op
from kernels.sequence_attention.reference import SequenceArgs, sequence_attention


def draw(items, rows, channels, dtype=torch.float32, parts=1):
    """Return x in float32, parts of y, a bias and three strided modulations of each item."""
    torch.manual_seed(0)
    modulation = torch.randn(items, 5, channels, dtype=dtype)
    x, y, bias = torch.randn(items, rows, channels), torch.randn(parts, items, rows, channels), torch.randn(channels)
    return x, y, bias, *(modulation[:, index] for index in (3, 0, 4))


def compare_norms(x, y, bias, gate, shift, scale, tolerance=2e-6):
    wide = [None if value is None else value.double() for value in (x, y, bias, gate, shift, scale)]
    with poisoned():
        plain = norm_op.adaptive_norm(x, shift, scale)
        gated = norm_op.gated_adaptive_norm(x, y, bias, gate, shift, scale)
    want = adaptive_norm(AdaptiveNormArgs(wide[0], wide[4], wide[5]))
    torch.testing.assert_close(plain, want.to(shift.dtype), rtol=tolerance, atol=tolerance)
    want = gated_adaptive_norm(GatedNormArgs(*wide))
    torch.testing.assert_close(gated, want.to(shift.dtype), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(x, wide[0].to(x.dtype), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("shape", [(1, 1, 4), (3, 7, 72), (2, 3, 600)], ids=str)
def test_norms(shape):
    compare_norms(*draw(*shape))


def test_norms_of_sums_of_parts():
    compare_norms(*draw(2, 3, 40, parts=3))
    x, y, _, *modulation = draw(2, 3, 40, parts=2)
    compare_norms(x, y, None, *modulation)


def test_norms_around_a_residual_of_full_precision():
    compare_norms(*draw(2, 5, 40, dtype=torch.bfloat16), tolerance=1e-2)


def test_a_residual_of_half_precision_saturates():
    x, y, bias, *modulation = draw(1, 2, 40)
    x, y[0, 0, 0, :2] = x.half(), torch.tensor([1e7, -1e7])
    norm_op.gated_adaptive_norm(x, y, bias, *modulation)
    other = x.clone()
    gated_adaptive_norm(GatedNormArgs(other, y, bias, *modulation))
    assert x.isfinite().all()
    assert x[0, 0, :2].abs().tolist() == [65504.0] * 2
    assert torch.equal(x[0, 0, :2], other[0, 0, :2])


@pytest.mark.parametrize("tile", [(2, 4), (4, 8)], ids=str)
def test_tiles_of_norms(tile):
    with tiled(norm_launch, RowTile(*tile)):
        compare_norms(*draw(2, 7, 40))


def compare_frames(*shape):
    torch.manual_seed(0)
    qkv = torch.randn(shape)
    want = frame_attention(FrameArgs(qkv.double())).float()
    with poisoned():
        torch.testing.assert_close(op.frame_attention(qkv), want, rtol=2e-6, atol=2e-6)
    torch.testing.assert_close(library.frame_attention(FrameArgs(qkv)), want, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("shape", [(1, 1, 1, 3, 1, 8), (2, 5, 3, 3, 2, 24), (1, 8, 2, 3, 3, 72)], ids=str)
def test_frames(shape):
    compare_frames(*shape)


def test_tiles_of_frames():
    with tiled(frame_launch, RowTile(4, 1)):
        compare_frames(1, 3, 5, 3, 2, 16)


def compare_sequences(*shape, dtype=torch.float16):
    torch.manual_seed(0)
    qkv = torch.randn(shape).to(dtype)
    want = sequence_attention(SequenceArgs(qkv.double())).to(dtype)
    with poisoned():
        torch.testing.assert_close(sequence_op.sequence_attention(qkv), want, rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(sequence_library.sequence_attention(SequenceArgs(qkv)), want, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("shape", [(1, 1, 3, 1, 16), (2, 70, 3, 2, 72), (1, 5, 3, 3, 96), (1, 66, 3, 1, 24)], ids=str)
def test_sequences(shape):
    compare_sequences(*shape)


def test_tiles_of_sequences():
    with tiled(sequence_launch, sequence_launch.Tile(16, 32)):
        compare_sequences(1, 40, 3, 1, 40)


def test_empty_inputs():
    assert norm_op.gated_adaptive_norm(*draw(2, 0, 16)).shape == (2, 0, 16)
    assert op.frame_attention(torch.empty(1, 2, 0, 3, 1, 8)).shape == (1, 2, 0, 1, 8)


def test_operators_pass_opcheck():
    x, y, bias, gate, shift, scale = draw(2, 3, 24)
    torch.library.opcheck(norm_op.adaptive_norm, (x, shift, scale))
    torch.library.opcheck(norm_op.gated_adaptive_norm, (x, y, bias, gate, shift, scale))
    torch.library.opcheck(sequence_op.sequence_attention, (torch.randn(1, 3, 3, 1, 16, dtype=torch.float16),))
    torch.library.opcheck(op.frame_attention, (torch.randn(1, 2, 3, 3, 1, 8),))
