"""Resampling without a GPU: compiled ahead of time, and refusals."""

from __future__ import annotations

import pytest
import torch
from absent_gpu import capability, on_gpu, refusal
from ahead import compiled_for, needs_compiler, spill_bytes

from kernels.resample import launch, resample
from kernels.resample.reference import ResampleArgs


def arguments(batch: int, along_last: bool) -> ResampleArgs:
    column = torch.ones(batch, dtype=torch.int32)
    tables = torch.zeros(1, 256, dtype=torch.int32), torch.zeros(1, 11, 256, dtype=torch.int32)
    values, start = torch.zeros(4096, dtype=torch.uint8), torch.zeros(batch, dtype=torch.int64)
    return ResampleArgs(values, start, *[column] * 4, column - 1, *tables, 3, 9, along_last)


@pytest.mark.parametrize("target", [80, 90])
@needs_compiler
def test_kernels_compile_ahead_once_for_all_sizes(target):
    with compiled_for(target) as compiled:
        for batch in (1, 5, 64):
            launch.resample(arguments(batch, True))
            launch.resample(arguments(batch, False))
    assert len({kernel.hash for kernel in compiled}) == 2
    assert {spill_bytes(kernel) for kernel in compiled} == {0}


def test_unsupported_calls():
    with capability(9, 0):
        args = arguments(2, True)._replace(values=on_gpu(64, dtype=torch.uint8))
        assert refusal(resample, *args) is None
        assert "must be one of torch.uint8" in refusal(resample, *args._replace(values=on_gpu(64)))
