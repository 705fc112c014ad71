"""The kernels of diffusion transformers without a GPU: compiled ahead of time, and refusals."""

from __future__ import annotations

import pytest
import torch
from absent_gpu import capability, on_gpu, refusal
from ahead import compiled_for, needs_compiler, on_targets, spill_bytes

from kernels.adaptive_norm import adaptive_norm, gated_adaptive_norm
from kernels.adaptive_norm import launch as norm_launch
from kernels.adaptive_norm.reference import AdaptiveNormArgs, GatedNormArgs
from kernels.frame_attention import frame_attention, launch
from kernels.frame_attention.reference import FrameArgs
from kernels.sequence_attention import launch as sequence_launch
from kernels.sequence_attention import sequence_attention
from kernels.sequence_attention.reference import SequenceArgs


@on_targets
def test_kernels_compile_ahead(target, dtype):
    x, y = torch.zeros(2, 256, 1152, dtype=torch.float16), torch.zeros(4, 2, 256, 1152, dtype=dtype)
    gate, shift, scale = torch.zeros(3, 2, 1152, dtype=dtype)
    with compiled_for(target) as compiled:
        norm_launch.adaptive_norm(AdaptiveNormArgs(x, shift, scale))
        norm_launch.gated_adaptive_norm(GatedNormArgs(x, y, gate[0], gate, shift, scale))
        launch.frame_attention(FrameArgs(torch.zeros(2, 5, 16, 3, 16, 72, dtype=dtype)))
    assert len({kernel.hash for kernel in compiled}) == 3
    if dtype == torch.bfloat16:
        assert {spill_bytes(kernel) for kernel in compiled} == {0}


@pytest.mark.parametrize("target", [80, 90])
@needs_compiler
def test_sequence_attention_compiles_ahead(target):
    with compiled_for(target) as compiled:
        for rows in (2, 16):
            sequence_launch.sequence_attention(SequenceArgs(torch.zeros(rows, 256, 3, 16, 72, dtype=torch.bfloat16)))
    assert len({kernel.hash for kernel in compiled}) == 2
    # the larger tile, the fastest on Hopper, spills ten registers before it
    assert max(spill_bytes(kernel) for kernel in compiled) <= (0 if target == 90 else 40)


def test_unsupported_calls():
    with capability(9, 0):
        assert "C=5000 must be between" in refusal(
            adaptive_norm, *(on_gpu(1, 2, 5000)[:, index] for index in (0, 0, 0))
        )
        x, rows = on_gpu(2, 4, 64), on_gpu(2, 64)
        assert refusal(gated_adaptive_norm, x, x[None], None, rows, rows, rows) is None
        assert "must be contiguous" in refusal(gated_adaptive_norm, x.transpose(0, 1), x[None], None, *[rows] * 3)
        assert "head_dim=12 must be" in refusal(sequence_attention, on_gpu(1, 2, 3, 2, 12))
        assert "must be torch.bfloat16" in refusal(sequence_attention, on_gpu(1, 2, 3, 2, 16, dtype=torch.float32))
        assert "9 frames must be at most 8" in refusal(frame_attention, on_gpu(1, 9, 4, 3, 2, 64))
        assert "head_dim=12 must be" in refusal(frame_attention, on_gpu(1, 2, 4, 3, 2, 12))
