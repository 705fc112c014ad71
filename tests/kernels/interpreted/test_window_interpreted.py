"""Window attention in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from tiles import tiled

from benchmarks.kernels.behaviour import poisoned
from kernels import window_attention
from kernels.window_attention import launch, op
from kernels.window_attention.reference import WindowArgs


def right(*inputs):
    return window_attention.run_on("reference", *inputs)


def results(function, qkv, table, window):
    """Return output and every gradient, the upstream one drawn from a fixed seed."""
    tensors = [x.detach().requires_grad_() for x in (qkv, table)]
    out = function(*tensors, window)
    gradient = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.dtype)
    return out.detach(), *torch.autograd.grad(out, tensors, gradient)


def draw(batch, frames, height, width, heads, dim, window, dtype=torch.float32):
    torch.manual_seed(0)
    qkv = torch.randn(batch, frames, height, width, 3, heads, dim).to(dtype)
    return qkv, torch.randn((2 * window - 1) ** 2, heads), window


@pytest.mark.parametrize(
    ("shape", "window"),
    [
        ((1, 1, 8, 16, 1, 64), 8),
        ((1, 1, 6, 5, 1, 32), 5),  # a window of one row
        ((2, 1, 3, 5, 1, 16), 6),  # smaller than a window
        ((1, 2, 1, 1, 3, 16), 3),
        ((1, 1, 5, 9, 2, 24), 4),  # head_dim that is not a power of two
        ((1, 1, 6, 7, 1, 72), 7),  # tile that the window does not fill
        ((1, 1, 3, 2, 2, 8), 1),
    ],
)
def test_equals_the_reference(shape, window):
    inputs = draw(*shape, window)
    with poisoned():
        ours = results(op.window_attention, *inputs)
    torch.testing.assert_close(ours, results(right, *inputs), rtol=1e-5, atol=1e-5)


def test_half_precision():
    inputs = draw(1, 1, 5, 7, 1, 32, 5, torch.float16)
    torch.testing.assert_close(results(op.window_attention, *inputs), results(right, *inputs), rtol=4e-3, atol=4e-3)


@pytest.mark.parametrize("programs", [1, 2, 3])
def test_programs_share_windows(programs):
    """The last program may get fewer windows."""
    qkv, table, window = draw(1, 1, 6, 13, 1, 16, 4)
    with poisoned(), tiled(launch, launch.Tile(programs, 4, 1)):
        ours = results(op.window_attention, qkv, table, window)
    torch.testing.assert_close(ours, results(right, qkv, table, window), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("height", "width", "side"), [(8, 8, 4), (6, 13, 4), (9, 3, 8)])
def test_descriptors(height, width, side):
    """Windows at the border load zeros outside of the frame and store nothing there."""
    qkv, table, window = draw(2, 1, height, width, 2, 16, side)
    with poisoned(), tiled(launch, launch.Tile(3, 4, 2, descriptors=True)):
        ours = launch.forward(WindowArgs(qkv, table, window))
    torch.testing.assert_close(ours, right(qkv, table, window), rtol=1e-5, atol=1e-5)


def test_descriptors_fall_back_where_blocks_do_not_fit():
    qkv, table, window = draw(1, 1, 5, 7, 2, 24, 3)
    with tiled(launch, launch.Tile(3, 4, 2, descriptors=True)):
        ours = op.window_attention(qkv, table, window)
    torch.testing.assert_close(ours, right(qkv, table, window), rtol=1e-5, atol=1e-5)


def test_strided_input_and_gradient():
    qkv, table, window = draw(1, 1, 2, 3, 2, 16, 2)
    crossed = qkv.permute(5, 4, 3, 2, 1, 0, 6).contiguous().permute(5, 4, 3, 2, 1, 0, 6)
    torch.testing.assert_close(
        results(op.window_attention, crossed, table.T.contiguous().T, window),
        results(op.window_attention, qkv, table, window),
    )
    out = op.window_attention(qkv.requires_grad_(), table, window)
    broadcast, whole = torch.ones(16).expand(out.shape), torch.ones(out.shape)
    one, other = (torch.autograd.grad(out, qkv, gradient, retain_graph=True) for gradient in (broadcast, whole))
    torch.testing.assert_close(one, other)


def test_zero_queries_average_the_values():
    qkv, table, window = draw(1, 1, 4, 4, 1, 16, 4)
    qkv[:, :, :, :, 0] = 0
    out = op.window_attention(qkv, torch.zeros_like(table), window)
    torch.testing.assert_close(out, qkv[:, :, :, :, 2].mean((2, 3), keepdim=True).expand_as(out))


def test_empty_batch():
    qkv, table, window = draw(0, 1, 4, 4, 1, 16, 4)
    out, dqkv, dtable = results(op.window_attention, qkv, table, window)
    assert (out.shape, dqkv.shape) == ((0, 1, 4, 4, 1, 16), qkv.shape)
    assert not dtable.any()


def test_operator_passes_opcheck():
    qkv, table, window = draw(1, 1, 2, 3, 1, 16, 2)
    torch.library.opcheck(
        torch.ops.omnitok.window_attention_backward.default, (torch.randn(1, 1, 2, 3, 1, 16), qkv, table, window)
    )
    torch.library.opcheck(op.window_attention, (qkv.requires_grad_(), table.requires_grad_(), window))


def test_compiles_without_graph_breaks():
    inputs = draw(1, 1, 2, 3, 1, 16, 2)
    compiled = torch.compile(op.window_attention, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(results(compiled, *inputs), results(op.window_attention, *inputs))
