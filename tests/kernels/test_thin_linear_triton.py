"""The kernels of products with few rows without a GPU: compiled ahead of time, and refusals."""

from __future__ import annotations

import pytest
import torch
from absent_gpu import capability, on_gpu, refusal
from ahead import MAX_SHARED_BYTES, compiled_for, needs_compiler, spill_bytes

from kernels.thin_linear import launch, moments_for, thin_linear
from kernels.thin_linear.reference import ThinArgs


def zeros(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.zeros(shape, dtype=dtype)


@needs_compiler
@pytest.mark.parametrize("target", [80, 90])
def test_kernels_compile_ahead(target):
    """The network's shapes at every number of rows that has its own tile."""
    bias = zeros(1536, dtype=torch.float32)
    with compiled_for(target) as compiled:
        for rows in (2, 7, 16):
            launch.thin_linear(ThinArgs(zeros(rows, 1536), zeros(1536, 1536), bias, normed=True, gelu=True))
        for rows in (2, 64, 128):
            launch.thin_linear(ThinArgs(zeros(rows, 6144), zeros(1536, 6144), bias, zeros(rows, 1536)))
        launch.thin_linear(ThinArgs(zeros(128, 1536), zeros(4608, 1536), normed=True))
    assert {kernel.name for kernel in compiled} == {
        "thin_vector_kernel", "thin_held_kernel", "thin_matrix_kernel", "normalize_kernel",
    }  # fmt: skip
    assert len({kernel.hash for kernel in compiled}) == 8
    assert all(kernel.metadata.shared <= MAX_SHARED_BYTES[target] for kernel in compiled)
    assert {spill_bytes(kernel) for kernel in compiled} == {0}


@needs_compiler
def test_held_weights_reach_the_tensor_cores_without_shared_memory():
    """Only sums across warps pass through it: 4 of (16, 16) in float32."""
    with compiled_for(90) as compiled:
        launch.thin_linear(ThinArgs(zeros(7, 1536), zeros(6144, 1536)))
    assert compiled[0].metadata.shared <= 4 * 16 * 16 * 4


@needs_compiler
@pytest.mark.parametrize("target", [80, 90])
def test_products_with_moments_compile_ahead(target):
    """The weight fills the tensor cores, whose Hopper form takes both operands from shared memory."""
    with compiled_for(target) as compiled:
        for columns, inner in ((4608, 1536), (1536, 1536), (6144, 1536), (1536, 6144), (9193, 1536)):
            added = columns == 1536
            moments = zeros(32, 24, 2, dtype=torch.float32)
            args = ThinArgs(zeros(32, inner), zeros(columns, inner), zeros(columns, dtype=torch.float32))
            args = args._replace(residual=zeros(32, columns) if added else None, normed=not added, moments=moments)
            launch.thin_linear(args)
    assert {kernel.name for kernel in compiled} == {"thin_matrix_kernel"}
    assert all(kernel.metadata.shared <= MAX_SHARED_BYTES[target] for kernel in compiled)
    assert {spill_bytes(kernel) for kernel in compiled} == {0}
    if target == 90:
        assert all("wgmma.mma_async.sync.aligned.m64n32k16" in kernel.asm["ptx"] for kernel in compiled)


@pytest.mark.usefixtures("_gpu")
def test_moments_are_kept_by_steps_of_the_rows_that_were_timed():
    assert moments_for(on_gpu(16, 1536)) is None
    assert moments_for(on_gpu(32, 1536)).shape == (32, 24, 2)
    assert moments_for(on_gpu(33, 1536)) is None
    assert moments_for(on_gpu(32, 1530)) is None
    assert moments_for(on_gpu(32, 1536, dtype=torch.float32)) is None
    assert moments_for(zeros(32, 1536)) is None
    with capability(8, 0):
        assert moments_for(on_gpu(32, 1536)) is None


@pytest.mark.usefixtures("_gpu")
def test_unsupported_calls():
    def unsupported(rows: int = 2, inner: int = 64, dtype: torch.dtype = torch.bfloat16, **others) -> str | None:
        x = on_gpu(rows, inner, dtype=dtype)
        return refusal(thin_linear, x, **{"weight": on_gpu(8, inner, dtype=dtype)} | others)

    assert unsupported() is None
    assert unsupported(weight=on_gpu(8, 64, dtype=torch.int8)) is None
    assert "R=257 must be at most 256" in unsupported(257)
    assert "K=40 must be a multiple of 16" in unsupported(inner=40)
    assert "torch multiplies float32 faster" in unsupported(dtype=torch.float32)
    assert "float16 must be the inputs' torch.bfloat16" in unsupported(weight=on_gpu(8, 64, dtype=torch.float16))
    assert "must be matrices" in unsupported(weight=on_gpu(8, 32))
    assert "9 counters must be at least 4096" in unsupported(counters=on_gpu(9, dtype=torch.int32))
    assert "requires gradients" in unsupported(weight=on_gpu(8, 64).requires_grad_())
    moments = on_gpu(2, 1, 2, dtype=torch.float32)
    assert unsupported(normed=True, moments=moments) is None
    assert "must be (2, 0, 2), of 64 columns a part" in unsupported(moments=moments)
    assert "read and written by one call" in unsupported(normed=True, moments=moments, residual=on_gpu(2, 8))
