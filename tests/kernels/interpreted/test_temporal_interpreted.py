"""Temporal attention in Triton's interpreter."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from tiles import tiled

from benchmarks.kernels.behaviour import poisoned
from kernels import temporal_attention
from kernels.autotune.table import RowTile
from kernels.temporal_attention import launch, op


def results(function, *tensors, **options):
    """Return output and every gradient, the upstream one drawn from a fixed seed; None stays None."""
    tensors = [x if x is None else x.detach().requires_grad_() for x in tensors]
    out = function(*tensors, **options)
    gradient = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.dtype)
    wanted = [x for x in tensors if x is not None]
    return out.detach(), *torch.autograd.grad(out, wanted, gradient)


def draw(frames, past=0, batch=1, height=2, width=3, heads=2, dim=16, dtype=torch.float32):
    """Draw q, kv, q_scale, k_scale and past_kv."""
    torch.manual_seed(0)
    q = torch.randn(batch, frames, height, width, heads, dim).to(dtype)
    kv = torch.randn(batch, frames, height, width, 2, heads, dim).to(dtype)
    past_kv = torch.randn(batch, past, height, width, 2, heads, dim).to(dtype) if past else None
    return q, kv, *(torch.rand(2, dim) + 0.5), past_kv


def compare(tensors, tolerance=2e-5, **options):
    with poisoned():
        ours = results(op.temporal_attention, *tensors, **options)
    right = results(partial(temporal_attention.run_on, "reference"), *tensors, **options)
    torch.testing.assert_close(ours, right, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("frames", "causal"), [(1, True), (1, False), (2, True), (3, False), (5, True), (8, True), (8, False)]
)
def test_frames(frames, causal):
    compare(draw(frames, height=1), causal=causal)


@pytest.mark.parametrize(
    ("frames", "past", "window"), [(1, 1, None), (1, 7, 5), (2, 3, 1), (2, 3, None), (4, 4, None), (4, 4, 3)]
)
def test_carried_keys(frames, past, window):
    compare(draw(frames, past, height=1), window=window)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "both"])
def test_distance_penalties(causal):
    compare(draw(3, 2, width=2), causal=causal, slopes=torch.tensor([0.3, 1.7]))
    compare(draw(3, width=2), causal=causal, slopes=torch.rand(4)[::2])


@pytest.mark.parametrize(("heads", "dim"), [(1, 8), (3, 24), (1, 64), (2, 72)])
def test_heads(heads, dim):
    compare(draw(2, heads=heads, dim=dim, batch=2, height=1))


def test_half_precision():
    compare(draw(5, height=1, dim=32, dtype=torch.float16), tolerance=4e-3)


def test_attention_over_one_frame_returns_its_values():
    q, kv, *rest = draw(1)
    out, dq, _, dq_scale, dk_scale = results(op.temporal_attention, q, kv, *rest)
    assert torch.equal(out, kv[..., 1, :, :])
    assert not dq.any()
    assert not dq_scale.any()
    assert not dk_scale.any()


def test_vectors_of_zero():
    q, kv, *rest = draw(3)
    q[:, 1, 0, 0], kv[:, 2, 0, 1] = 0, 0
    compare((q, kv, *rest))


@pytest.mark.parametrize("tile", [RowTile(4, 1), RowTile(32, 4)])
def test_tiles(tile):
    with tiled(launch, tile):
        compare(draw(2, 1, batch=2, height=1))


def crossed(x):
    """Return a copy with its dimensions reversed in memory."""
    order = list(range(x.ndim))[::-1]
    return x.permute(order).contiguous().permute(order)


@pytest.mark.parametrize("cut", ["merged", "crossed", "columns"])
def test_strided_input(cut):
    q, kv, q_scale, k_scale, past_kv = draw(2, 2)
    plain = results(op.temporal_attention, q, kv, q_scale, k_scale, past_kv)
    if cut == "merged":
        whole = torch.cat((q.unsqueeze(4), kv), dim=4)
        q, kv = whole[..., 0, :, :], whole[..., 1:, :, :]
        past_kv = torch.cat((past_kv, past_kv), dim=1)[:, :2]
    elif cut == "crossed":
        q, kv, past_kv = (crossed(x) for x in (q, kv, past_kv))
    else:
        q, kv, past_kv = (torch.cat((x, x), dim=3)[:, :, :, : x.shape[3]] for x in (q, kv, past_kv))
    torch.testing.assert_close(results(op.temporal_attention, q, kv, q_scale, k_scale, past_kv), plain)


def test_merged_projections_are_not_copied():
    qkv = torch.zeros(1, 2, 2, 3, 3, 2, 16)
    q, kv = qkv[..., 0, :, :], qkv[..., 1:, :, :]
    assert launch._regular(q) is q
    assert launch._regular(kv) is kv


def test_empty_batch():
    out, *grads = results(op.temporal_attention, *draw(2, batch=0))
    assert out.shape == (0, 2, 2, 3, 2, 16)
    assert not grads[2].any()


def test_operator_passes_opcheck():
    tensors, slopes = draw(2, 1, height=1, width=2), torch.tensor([0.5, 0.25])
    grad = torch.randn(tensors[0].shape)
    torch.library.opcheck(torch.ops.omnitok.temporal_attention_backward.default, (grad, *tensors, True, 2, slopes))
    tensors = [x.requires_grad_() for x in tensors]
    torch.library.opcheck(op.temporal_attention, (*tensors, True, 2, slopes))
    torch.library.opcheck(op.temporal_attention, (*tensors[:4], None, False, None, None))


def test_compiles_without_graph_breaks():
    tensors = draw(2, 1, height=1)
    compiled = torch.compile(op.temporal_attention, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(
        results(compiled, *tensors, window=2), results(op.temporal_attention, *tensors, window=2)
    )
