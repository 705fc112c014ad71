"""The fused products without a GPU: compiled ahead of time, and refusals."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from absent_gpu import on_gpu, refusal
from ahead import MAX_SHARED_BYTES, compiled_for, needs_compiler, spill_bytes
from tiles import tiled

from kernels import BackendUnavailableError
from kernels.linear import attention_inputs, fold, gated_linear, interleave_gates, launch, reference, residual_linear
from kernels.linear.reference import AttentionInputsArgs, GatedArgs, ResidualArgs

ROWS = (1024, 16_384)


def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.zeros(shape, dtype=dtype)


def launch_all(dtype: torch.dtype) -> None:
    """Launch the shapes of the network, with few rows and with many."""
    for rows in ROWS:
        x, rstd = zeros(rows, 512, dtype=dtype), zeros(rows)
        launch.gated_linear(GatedArgs(x, rstd, zeros(2816, 512, dtype=dtype), zeros(2816)))
        weight, tables, scales = zeros(1536, 512, dtype=dtype), [zeros(1024, 32)] * 2, [zeros(64)] * 2
        args = AttentionInputsArgs(x, rstd, weight, 512, *tables, *scales, 8, zeros(1536))
        launch.attention_inputs(args)
        args = ResidualArgs(zeros(rows, 1408, dtype=dtype), zeros(512, 1408, dtype=dtype), None, x)
        launch.residual_linear(args)


@needs_compiler
@pytest.mark.parametrize(
    ("target", "dtype", "tile"),
    [
        (80, torch.bfloat16, None),
        (90, torch.float32, None),
        (90, torch.bfloat16, None),
        (90, torch.bfloat16, launch.Tile(128, 64, warps=4, stages=4, programs=132, descriptors=True)),
        (90, torch.bfloat16, launch.Tile(128, 128, warps=8, stages=4, programs=132, descriptors=True, halved=True)),
    ],
    ids=["sm_80", "float32", "sm_90", "descriptors", "halved"],
)
def test_kernels_compile_ahead(target, dtype, tile):
    with compiled_for(target) as compiled, tiled(launch, tile):
        launch_all(dtype)
    assert {kernel.name for kernel in compiled} == {
        "gated_linear_kernel", "attention_inputs_kernel", "residual_linear_kernel",
    }  # fmt: skip
    assert all(kernel.metadata.shared <= MAX_SHARED_BYTES[target] for kernel in compiled)
    if target == 90 and dtype == torch.bfloat16:
        assert {spill_bytes(kernel) for kernel in compiled} == {0}


def test_interleaved_rows_give_interleaved_columns():
    weight = torch.arange(48.0)[:, None]  # 24 values, then 24 gates
    values, gates = reference.split_gates(interleave_gates(weight).t())
    assert values.flatten().tolist() == list(range(24))
    assert gates.flatten().tolist() == list(range(24, 48))


def test_folding_is_exact_before_rounding():
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(9, 64, generator=generator) + 3, torch.randn(32, 64, generator=generator)
    gamma, beta, bias = (torch.randn(size, generator=generator) for size in (64, 64, 32))
    rstd = (x.var(1, correction=0) + 1e-5).rsqrt()
    folded = fold(gamma, beta, weight, bias, torch.float32)
    value, gate = reference.split_gates(F.linear(F.layer_norm(x, (64,), gamma, beta), weight, bias))
    found = gated_linear(x, rstd, *folded)
    torch.testing.assert_close(found, value * F.gelu(gate), rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("width", [256, 512])
def test_folded_rows_sum_to_zero_after_rounding(width):
    """A mean of x must leave nothing in the product."""
    generator = torch.Generator().manual_seed(width)
    gamma, weight = torch.rand(width, generator=generator) + 0.5, torch.randn(12, width, generator=generator) + 0.3
    folded = fold(gamma, None, weight, None, torch.bfloat16)
    exact = gamma * weight - (gamma * weight).mean(1, keepdim=True)
    plain = exact.bfloat16().float()
    assert not folded.shift.any()
    assert folded.weight.float().sum(1).abs().max() < plain.sum(1).abs().max() / 20
    assert (folded.weight.float() - exact).square().mean() < 1.1 * (plain - exact).square().mean()


@pytest.mark.usefixtures("_gpu")
def test_unsupported_calls():
    def unsupported(columns: int = 64, dtype: torch.dtype = torch.bfloat16) -> str | None:
        return refusal(residual_linear, on_gpu(4, columns, dtype=dtype), on_gpu(8, columns), None, on_gpu(4, 8))

    assert unsupported() is None
    assert "K=96 must be a multiple of 64" in unsupported(96)
    assert "float16" in unsupported(dtype=torch.float16)
    weight = on_gpu(8, 64).requires_grad_()
    assert "requires gradients" in refusal(residual_linear, on_gpu(4, 64), weight, None, on_gpu(4, 8))
    with torch.no_grad():
        assert refusal(residual_linear, on_gpu(4, 64), weight, None, on_gpu(4, 8)) is None
    with pytest.raises(BackendUnavailableError, match="tensors are on cpu"):
        residual_linear.run_on("triton", zeros(4, 64), zeros(8, 64), None, zeros(4, 8))
    assert "24 rows must be a multiple of 16" in refusal(
        gated_linear, on_gpu(4, 64), on_gpu(4), on_gpu(24, 64), on_gpu(24)
    )


@pytest.mark.usefixtures("_gpu")
def test_auto_leaves_long_rows_to_torch():
    def explained(columns: int) -> str:
        with torch.no_grad():
            call = on_gpu(4, columns), on_gpu(8, columns), None, on_gpu(4, 8)
            return residual_linear.explain(*call).backend

    assert explained(1024) == "triton"
    assert explained(1088) == "reference"


@pytest.mark.usefixtures("_gpu")
def test_unsupported_calls_of_attention_inputs():
    def unsupported(columns: int = 384, normed: int = 128, heads: int = 2, scaled: bool = True) -> str | None:
        scale = on_gpu(64) if scaled else None
        return refusal(
            attention_inputs, on_gpu(4, 64), on_gpu(4), on_gpu(columns, 64), normed, None, None, scale, scale, heads
        )

    assert unsupported() is None
    assert "normed=64 must be a multiple of the 128" in unsupported(normed=64)
    assert "normed=128 needs rstd" in refusal(
        attention_inputs, on_gpu(4, 64), None, on_gpu(384, 64), 128, None, None, None, None, 2
    )
    assert "head_dim=32 must be 64" in unsupported(heads=4)
    assert unsupported(heads=4, scaled=False) is None
    assert "32 columns of the queries" in unsupported(columns=96)
