"""The kernels of attention without a GPU: compiled ahead of time, and refusals."""

from __future__ import annotations

import pytest
import torch
from absent_gpu import on_gpu, refusal
from ahead import MAX_SHARED_BYTES, compiled_for, needs_compiler, spill_bytes
from tiles import tiled

import kernels
from kernels import BackendUnavailableError, attention_fixed_max
from kernels.attention_fixed_max import launch as fixed_max
from kernels.attention_fixed_max.reference import FixedMaxArgs
from kernels.spatial_attention import launch as spatial
from kernels.spatial_attention.op import CosineArgs
from kernels.temporal_attention import launch as temporal
from kernels.temporal_attention.reference import TemporalArgs
from kernels.window_attention import launch as window
from kernels.window_attention.reference import WindowArgs


def launch_window(dtype: torch.dtype) -> None:
    qkv = torch.zeros(1, 1, 9, 9, 3, 8, 64, dtype=dtype)
    args = WindowArgs(qkv, torch.zeros(225, 8), 8)
    window.forward(args)
    window.backward(qkv[..., 0, :, :], args)


def launch_temporal(dtype: torch.dtype) -> None:
    frames = 5 if dtype == torch.bfloat16 else 3
    q, kv = torch.zeros(1, frames, 3, 3, 8, 64, dtype=dtype), torch.zeros(1, frames, 3, 3, 2, 8, 64, dtype=dtype)
    args = TemporalArgs(q, kv, torch.ones(64), torch.ones(64))
    temporal.forward(args)
    temporal.backward(q, args)


def launch_spatial(dtype: torch.dtype) -> None:
    x, table = torch.zeros(1, 9, 8, 64, dtype=dtype), torch.zeros(9, 32)
    args = CosineArgs(x, torch.ones(64), table, table)
    spatial.forward(args)
    spatial.backward(x, args)


@needs_compiler
@pytest.mark.parametrize(
    ("target", "dtype"), [(80, torch.bfloat16), (80, torch.float32), (90, torch.bfloat16)], ids=str
)
@pytest.mark.parametrize(
    ("launch", "count"),
    [(launch_window, 3), (launch_temporal, 2), (launch_spatial, 2)],
    ids=["window", "temporal", "spatial"],
)
def test_kernels_compile_ahead(target, dtype, launch, count):
    with compiled_for(target) as compiled:
        launch(dtype)
    assert len(compiled) == count
    assert all(kernel.metadata.shared <= MAX_SHARED_BYTES[80] for kernel in compiled)
    if target == 90 and dtype == torch.bfloat16:
        assert [spill_bytes(kernel) for kernel in compiled] == [0] * count


@needs_compiler
@pytest.mark.parametrize(("target", "descriptors"), [(80, False), (90, False), (90, True)])
def test_kernels_of_inference_compile_ahead(target, descriptors):
    with compiled_for(target) as compiled:
        for positions in (1024, 500):
            tile = fixed_max.Tile(64 if target == 80 else 128, 64, descriptors=descriptors)
            qkv = torch.zeros(2 * positions, 3, 8, 64, dtype=torch.bfloat16)
            with tiled(fixed_max, tile):
                fixed_max.attention_fixed_max(FixedMaxArgs(qkv, positions, 12.0))
        for side in (16, 27):
            qkv = torch.zeros(1, 1, side, side, 3, 8, 64, dtype=torch.bfloat16)
            with tiled(window, window.Tile(64, 4, 2, descriptors)):
                window.forward(WindowArgs(qkv, torch.zeros(225, 8), 8))
    assert len({kernel.hash for kernel in compiled}) == 4
    assert all(kernel.metadata.shared <= MAX_SHARED_BYTES[80] for kernel in compiled)
    assert {spill_bytes(kernel) for kernel in compiled} == {0}
    assert all(("cp.async.bulk.tensor" in kernel.asm["ptx"]) == descriptors for kernel in compiled)


@pytest.mark.usefixtures("_gpu")
def test_unsupported_calls_of_window_attention():
    def unsupported(window: int = 8, dim: int = 64, dtype: torch.dtype = torch.bfloat16) -> str | None:
        qkv = on_gpu(1, 1, 8, 8, 3, 2, dim, dtype=dtype)
        return refusal(kernels.window_attention, qkv, on_gpu(225, 2, dtype=torch.float32), window)

    assert unsupported() is None
    assert "window=9 must be at most 8" in unsupported(window=9)
    assert "head_dim=20" in unsupported(dim=20)
    assert "head_dim=136" in unsupported(dim=136)
    assert "float64" in unsupported(dtype=torch.float64)


@pytest.mark.usefixtures("_gpu")
def test_unsupported_calls_of_temporal_attention():
    def unsupported(frames: int = 5, past: int = 0, dim: int = 64, dtype: torch.dtype = torch.bfloat16, **kwargs):
        q, kv = on_gpu(1, frames, 2, 2, 2, dim, dtype=dtype), on_gpu(1, frames, 2, 2, 2, 2, dim)
        past_kv = on_gpu(1, past, 2, 2, 2, 2, dim) if past else None
        scale = on_gpu(dim, dtype=torch.float32)
        return refusal(kernels.temporal_attention, q, kv, scale, scale, past_kv, **kwargs)

    assert unsupported(frames=4, past=4) is None
    assert "9 keys" in unsupported(past=4)
    assert "head_dim=136" in unsupported(dim=136)
    assert "dtype" in unsupported(dtype=torch.float32)
    assert "causal" in unsupported(causal=False, window=2)
    slopes = on_gpu(2, dtype=torch.float32).requires_grad_()
    assert "slopes" in unsupported(slopes=slopes)
    with torch.no_grad():
        assert unsupported(slopes=slopes) is None


@pytest.mark.usefixtures("_gpu")
def test_unsupported_calls_of_spatial_attention():
    def unsupported(dim: int = 64, dtype: torch.dtype = torch.bfloat16, batch: int = 1):
        q, kv = on_gpu(batch, 1, 1, 1, 1, dim, dtype=dtype), on_gpu(batch, 1, 1, 1, 2, 1, dim)
        return refusal(kernels.spatial_attention, q, kv, on_gpu(dim), on_gpu(dim))

    assert unsupported() is None
    assert "head_dim=20" in unsupported(dim=20)
    assert "must be the keys' torch.bfloat16" in unsupported(dtype=torch.float32)
    assert "70000 frames" in unsupported(dim=8, batch=70_000)


@pytest.mark.usefixtures("_gpu")
def test_unsupported_calls_of_fixed_max_attention():
    def unsupported(dtype=torch.bfloat16, dim=64, bound=12.0, bias=None):
        return refusal(attention_fixed_max, on_gpu(8, 3, 2, dim, dtype=dtype), 4, bound, bias)

    assert unsupported() is None
    assert "whose range" in unsupported(dtype=torch.float16)
    assert "head_dim=48" in unsupported(dim=48)
    assert "bound=61 must be at most 60" in unsupported(bound=61.0)
    assert unsupported(bound=float("nan")) is not None
    assert unsupported(bias=on_gpu(2, 4, 4)) == "the kernel adds no bias to the logits"
    assert "requires gradients" in refusal(attention_fixed_max, on_gpu(8, 3, 2, 64).requires_grad_(), 4, 12.0)
    assert "256 positions" in refusal(attention_fixed_max, on_gpu(8192, 3, 2, 64), 256, 12.0)
    with pytest.raises(BackendUnavailableError, match="tensors are on cpu"):
        attention_fixed_max.run_on("triton", torch.zeros(8, 3, 2, 64), 4, 12.0)


@pytest.mark.parametrize("biased", [False, True])
def test_implementations_of_fixed_max_attention_agree(biased):
    qkv = torch.randn(3 * 20, 3, 2, 16, generator=torch.Generator().manual_seed(0))
    bias = torch.randn(2, 20, 20) if biased else None
    torch.testing.assert_close(
        attention_fixed_max.run_on("torch", qkv, 20, 99.0, bias),
        attention_fixed_max.run_on("reference", qkv, 20, 99.0, bias),
    )
