"""The kernels of LayerNorm without a GPU: compiled ahead of time, and refusals."""

from __future__ import annotations

import pytest
import torch
from absent_gpu import capability, on_gpu, refusal
from ahead import compiled_for, on_targets, spill_bytes

from kernels import BackendUnavailableError
from kernels.norm import inverse_deviation, launch, layer_norm
from kernels.norm.reference import DeviationArgs, LayerNormArgs


@on_targets
def test_kernels_compile_ahead(target, dtype):
    weight = torch.zeros(512)
    with compiled_for(target) as compiled:
        for rows in (8, launch.SMALL_MAX_ROWS + 1):
            x = torch.zeros(rows, 512, dtype=dtype)
            launch.layer_norm(LayerNormArgs(x, weight, weight))
            launch.inverse_deviation(DeviationArgs(x))
    assert len({kernel.hash for kernel in compiled}) == 4
    if dtype == torch.bfloat16:
        assert {spill_bytes(kernel) for kernel in compiled} == {0}


def test_the_reference_is_torchs_layer_norm():
    x, norm = torch.randn(2, 3, 40), torch.nn.LayerNorm(40)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.normal_()
        torch.testing.assert_close(layer_norm(x, norm.weight, norm.bias), norm(x))
        centered = (x - x.mean(-1, keepdim=True)) * inverse_deviation(x)[..., None]
        torch.testing.assert_close(centered * norm.weight + norm.bias, norm(x))


def test_unsupported_calls():
    x, weight = torch.zeros(2, 8), torch.zeros(8)
    with pytest.raises(BackendUnavailableError, match="tensors are on cpu"):
        layer_norm.run_on("triton", x, weight, None)
    with pytest.raises(BackendUnavailableError, match="tensors are on cpu"):
        inverse_deviation.run_on("triton", x)
    assert "C=1025 must be between" in refusal(inverse_deviation, torch.zeros(1, 1025))
    with capability(9, 0):
        x, weight = on_gpu(2, 8), on_gpu(8)
        assert refusal(layer_norm, x, weight, None) is None
        weight.requires_grad_()
        assert "requires gradients" in refusal(layer_norm, x, weight, None)
        assert "requires gradients" in refusal(inverse_deviation, on_gpu(2, 8).requires_grad_())
        with torch.no_grad():
            assert refusal(layer_norm, x, weight, None) is None
