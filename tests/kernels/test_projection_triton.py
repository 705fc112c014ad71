"""The kernel of the head's projection without a GPU: compiled ahead of time, and refusals."""

from __future__ import annotations

import pytest
import torch
from absent_gpu import refusal
from ahead import compiled_for, needs_compiler, spill_bytes

from kernels.projection import launch, vq_project
from kernels.projection.reference import ProjectArgs


@needs_compiler
@pytest.mark.parametrize("capability", [80, 90])
def test_kernel_compiles_ahead(capability):
    with compiled_for(capability) as compiled:
        for rows in (8, 5000):
            gain = torch.ones(512)
            x = torch.zeros(rows, 512, dtype=torch.bfloat16)
            launch.vq_project(ProjectArgs(x, gain, gain, torch.zeros(8, 512), torch.zeros(8)))
    assert len(compiled) == 2
    assert len({kernel.hash for kernel in compiled}) == 1  # the number of rows is not part of a kernel
    assert {spill_bytes(kernel) for kernel in compiled} == {0}


def test_unsupported_calls_run_on_the_reference():
    x, weight, bias = torch.randn(3, 16), torch.randn(4, 16, requires_grad=True), torch.randn(4)
    assert "requires gradients" in refusal(vq_project, x, None, None, weight, bias)
    assert (
        refusal(vq_project, x, None, None, torch.zeros(40, 16), bias) == "d=40 must be at most 32 and C=16 at most 2048"
    )
    assert refusal(vq_project, x, None, None, weight.detach(), bias) == "the tensors are on cpu, not on a GPU"
    units = vq_project(x, None, None, weight, bias)
    torch.testing.assert_close(units.norm(dim=-1), torch.ones(3))
    assert units.requires_grad
