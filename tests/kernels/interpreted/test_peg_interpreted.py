"""The positional convolution in Triton's interpreter."""

from __future__ import annotations

from contextlib import contextmanager
from unittest import mock

import pytest
import torch
import triton
import triton.language as tl

import kernels
from benchmarks.kernels.behaviour import poisoned
from kernels.peg import launch, op, triton_kernels
from kernels.peg.reference import PegArgs


@contextmanager
def small_tiles():
    """Use small tiles, since the interpreter is slow; clips of more than 3 frames use the loop over frames."""
    with (
        mock.patch.object(launch, "IMAGE_TILE", launch.Tile(1, 2, 2, 2, 16, 4)),
        mock.patch.object(launch, "MAX_UNROLLED_FRAMES", 3),
        mock.patch.object(launch, "MAX_UNROLLED_SCRAMBLED_FRAMES", 2),
        mock.patch.object(launch, "CLIP_TILE", launch.Tile(3, 2, 2, 2, 16, 4)),
        mock.patch.object(launch, "LONG_CLIP_TILE", launch.Tile(0, 2, 2, 2, 16, 4)),
        mock.patch.object(launch, "SMALL_LONG_CLIP_TILE", launch.Tile(0, 1, 2, 2, 16, 4)),
        mock.patch.object(launch, "MIN_PROGRAMS", 2),
        mock.patch.object(launch, "IMAGE_WEIGHT_TILE", launch.WeightTile(8, 16, 4, 3)),
        mock.patch.object(launch, "CLIP_WEIGHT_TILE", launch.WeightTile(4, 16, 4, 2)),
    ):
        yield


def draw(shape, kind="causal", dtype=torch.float32):
    torch.manual_seed(0)
    batch, _, height, width, channels = shape
    x, weight, bias = torch.randn(shape), torch.randn(3, 3, 3, channels) / 5, torch.randn(channels)
    past = torch.randn(batch, 2, height, width, channels) if kind == "carried" else None
    tensors = [None if t is None else t.to(dtype) for t in (x, weight, bias, past)]
    return *tensors, "both" not in kind, "published" if "published" in kind else "causal"


def ours(*inputs):
    return op.peg(PegArgs(*inputs))


def right(*inputs):
    return kernels.peg.run_on("reference", *inputs)


def results(function, *inputs):
    """Return output and every gradient, the upstream one drawn from a fixed seed."""
    inputs = [t.detach().requires_grad_() if isinstance(t, torch.Tensor) else t for t in inputs]
    tensors = [t for t in inputs if isinstance(t, torch.Tensor)]
    out = function(*inputs)
    gradient = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.dtype)
    return out.detach(), *torch.autograd.grad(out, tensors, gradient)


def exact_results(inputs):
    """Return the reference's results in float64."""
    return results(right, *(t.double() if isinstance(t, torch.Tensor) else t for t in inputs))


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        ((1, 1, 5, 3, 24), "causal"),  # channels that the tile does not divide
        ((2, 1, 4, 8, 16), "both"),
        ((1, 1, 3, 2, 16), "published"),
        ((1, 1, 1, 5, 16), "carried"),
        ((1, 2, 3, 1, 16), "causal"),
        ((1, 3, 2, 3, 16), "both"),
        ((1, 3, 1, 5, 16), "published"),
        ((1, 5, 1, 2, 8), "causal"),
        ((1, 5, 2, 1, 16), "published"),
        ((1, 5, 1, 1, 16), "carried"),
        ((2, 4, 3, 2, 16), "published"),  # divisions by a power of two
        ((1, 7, 3, 5, 8), "both"),
        ((1, 5, 2, 3, 8), "published, both"),
        ((1, 3, 2, 4, 16), "causal"),  # whole tiles only
        ((1, 2, 2, 4, 16), "both"),
        ((1, 5, 4, 4, 16), "carried"),
    ],
)
@small_tiles()
def test_equals_the_reference(shape, kind):
    inputs = draw(shape, kind)
    with poisoned():
        found = results(ours, *inputs)
    torch.testing.assert_close(found, results(right, *inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("frames", [2, 3, 5, 7, 64, 129])
@small_tiles()
def test_scrambled_rows_are_divided_exactly(frames):
    """The division holds for every row that `unsupported` admits."""
    inverse = launch._inverse(frames) % (1 << 32)
    for place in range(0, (1 << 31) // frames, 9973):
        row = place // frames * frames  # the quotient changes here
        for near in (max(0, row - 1), row, row + frames - 1):
            assert near * inverse >> 32 == near // frames


@small_tiles()
def test_half_precision():
    inputs = draw((1, 2, 2, 3, 16), "carried", torch.float16)
    found = results(ours, *inputs)
    exact = exact_results(inputs)
    assert {t.dtype for t in found} == {torch.float16}
    torch.testing.assert_close([t.double() for t in found], list(exact), rtol=2e-3, atol=4e-3)


@triton.jit
def _wide_without_assembly(b):
    """Replace `_wide`, since the interpreter cannot run assembly."""
    return b.to(tl.float32)


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        ((1, 1, 5, 3, 24), "causal"),
        ((1, 3, 2, 3, 16), "both"),
        ((1, 5, 2, 4, 16), "published"),
        ((1, 5, 4, 4, 16), "carried"),
    ],
)
@small_tiles()
def test_bfloat16(shape, kind):
    inputs = draw(shape, kind, torch.bfloat16)
    with mock.patch.object(triton_kernels, "_wide", _wide_without_assembly):
        found = results(ours, *inputs)
    exact = exact_results(inputs)
    for one, same_formula, expected in zip(found, results(right, *inputs), exact, strict=True):
        error = one.double() - expected
        assert one.dtype == torch.bfloat16
        assert error.abs().max() <= 2 * (same_formula.double() - expected).abs().max()
        assert error.norm() / expected.norm() < 5e-3


@small_tiles()
def test_strided_input():
    x, *rest = draw((1, 2, 3, 4, 16))
    crossed = x.permute(4, 2, 1, 3, 0).contiguous().permute(4, 2, 1, 3, 0)
    assert not crossed.is_contiguous()
    assert torch.equal(ours(crossed, *rest), ours(x, *rest))


@small_tiles()
def test_empty_batch():
    out, dx, dweight, dbias = results(ours, *draw((0, 2, 3, 4, 16)))
    assert out.shape == dx.shape == (0, 2, 3, 4, 16)
    assert not dweight.any()
    assert not dbias.any()


@small_tiles()
def test_unneeded_gradients_are_not_computed():
    x, weight, bias, *rest = draw((1, 2, 3, 3, 16))
    with mock.patch.object(launch, "peg_weight_gradient", side_effect=AssertionError):
        torch.autograd.grad(ours(x.requires_grad_(), weight, bias, *rest).sum(), x)


@small_tiles()
def test_operator_passes_opcheck():
    x, weight, bias, past, causal, _ = draw((1, 1, 2, 3, 16), "carried")
    tensors = [t.requires_grad_() for t in (x, weight, bias, past)]
    torch.library.opcheck(op.peg_forward, (*tensors, causal, "causal"))


@small_tiles()
def test_gradients_pass_opcheck():
    args = draw((1, 1, 2, 3, 16), "carried")
    torch.library.opcheck(op.input_gradient, args)
    torch.library.opcheck(op.weight_gradient, (args[0], *args))


@small_tiles()
def test_compiles_without_graph_breaks():
    inputs = draw((1, 1, 3, 3, 16))
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(results(compiled, *inputs), results(ours, *inputs))
