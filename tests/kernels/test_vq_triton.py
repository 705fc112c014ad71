"""The kernels of code assignment without a GPU: compiled ahead of time, and refusals."""

from __future__ import annotations

import pytest
import torch
from absent_gpu import refusal
from ahead import compiled_for, on_targets, spill_bytes

from kernels import BackendUnavailableError
from kernels.vq import launch, vq_assign


def launch_all(dtype: torch.dtype) -> None:
    for rows in (8, 65_536):
        launch.vq_assign(torch.zeros(rows, 8, dtype=dtype), *launch.vq_prepare(torch.zeros(8192, 8)), 8192)


@on_targets
def test_kernels_compile_ahead(target, dtype):
    with compiled_for(target) as compiled:
        launch_all(dtype)
    assert len({kernel.hash for kernel in compiled}) == 4  # with the table of codes and the merging of shares
    if target == 90 and dtype == torch.bfloat16:
        assert {spill_bytes(kernel) for kernel in compiled} == {0}


def test_unsupported_calls():
    assert "d=6 must be one of" in refusal(vq_assign, torch.zeros(1, 6), torch.zeros(3, 6))
    assert refusal(vq_assign, torch.zeros(1, 8), torch.zeros(3, 8)) == "the tensors are on cpu, not on a GPU"
    with pytest.raises(BackendUnavailableError, match="tensors are on cpu"):
        vq_assign.run_on("triton", torch.zeros(1, 8), torch.zeros(3, 8))
