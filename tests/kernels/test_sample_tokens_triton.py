"""The kernel of sampling without a GPU: compiled ahead of time, and refusals."""

from __future__ import annotations

import pytest
import torch
from absent_gpu import on_gpu, refusal
from ahead import compiled_for, on_targets, spill_bytes

from kernels.sample_tokens import launch, sample_tokens
from kernels.sample_tokens.reference import SampleArgs


def call(vocabulary: int, dtype: torch.dtype) -> SampleArgs:
    ints, floats = torch.zeros(2).int(), torch.ones(2)
    return SampleArgs(
        torch.zeros(4, vocabulary, dtype=dtype), ints, ints, ints, ints.long(), floats, ints, floats, floats, floats
    )


@on_targets
def test_kernels_compile_ahead(target, dtype):
    with compiled_for(target) as compiled:
        for vocabulary in (9193, 68):
            launch.sample_tokens(call(vocabulary, dtype))
    assert len({kernel.hash for kernel in compiled}) == 2  # one for each number of segments that holds a vocabulary
    if target == 90 and dtype == torch.float32:
        assert {spill_bytes(kernel) for kernel in compiled} == {0}


@pytest.mark.usefixtures("_gpu")
def test_unsupported_calls():
    wide = call(4, torch.float32)._replace(logits=on_gpu(4, 40_000, dtype=torch.float32))
    assert refusal(sample_tokens, *wide) == "V=40000 must be at most 32768"
    assert refusal(sample_tokens, *call(4, torch.float32)) == "the tensors are on cpu, not on a GPU"
