"""The kernels of the positional convolution without a GPU: compiled ahead of time, and refusals."""

from __future__ import annotations

import itertools

import pytest
import torch
from absent_gpu import refusal
from ahead import compiled_for, needs_compiler, spill_bytes

import kernels
from kernels import BackendUnavailableError
from kernels.peg import launch
from kernels.peg.reference import PegArgs


def zeros(*shape: int, dtype: torch.dtype, published: bool = False) -> PegArgs:
    order = "published" if published else "causal"
    return PegArgs(torch.zeros(shape, dtype=dtype), torch.zeros(3, 3, 3, 512), torch.zeros(512), order=order)


def launch_clip(dtype: torch.dtype, side: int = 8, published: bool = False) -> None:
    args = zeros(1, 5, side, side, 512, dtype=dtype, published=published)
    launch.peg(args)
    launch.peg_weight_gradient(args.x, args)


def launch_odd_clip(dtype: torch.dtype) -> None:
    launch_clip(dtype, side=9)


def launch_published_clip(dtype: torch.dtype) -> None:
    launch_clip(dtype, published=True)


def launch_long_clips(dtype: torch.dtype) -> None:
    """Launch two lengths, in published order and in causal order."""
    for frames, published in itertools.product((9, 6), (True, False)):
        launch.peg(zeros(4, frames, 32, 32, 512, dtype=dtype, published=published))


def launch_published_gradient(dtype: torch.dtype) -> None:
    launch.peg_input_gradient(zeros(4, 5, 32, 32, 512, dtype=dtype, published=True))


def launch_image(dtype: torch.dtype, side: int = 16) -> None:
    args = zeros(1, 1, side, side, 512, dtype=dtype)
    launch.peg(args)
    launch.peg_input_gradient(args)
    launch.peg_weight_gradient(args.x, args)


def launch_odd_image(dtype: torch.dtype) -> None:
    launch_image(dtype, side=9)


@needs_compiler
@pytest.mark.parametrize(
    ("capability", "dtype", "run", "distinct", "stack"),
    [
        (80, torch.bfloat16, launch_clip, 2, None),
        (80, torch.float32, launch_clip, 2, None),
        (90, torch.bfloat16, launch_clip, 2, 0),
        (90, torch.float32, launch_clip, 2, None),
        (90, torch.bfloat16, launch_odd_clip, 2, 64),
        (90, torch.bfloat16, launch_published_clip, 2, 96),
        (80, torch.bfloat16, launch_long_clips, 2, None),
        (90, torch.bfloat16, launch_long_clips, 2, 64),
        (90, torch.bfloat16, launch_published_gradient, 1, 64),
        (90, torch.bfloat16, launch_image, 3, 0),
        (90, torch.bfloat16, launch_odd_image, 3, 0),
    ],
)
def test_kernels_compile_ahead(capability, dtype, run, distinct, stack):
    """`stack` is the largest number of spilled bytes."""
    with compiled_for(capability) as compiled:
        run(dtype)
    assert len({kernel.hash for kernel in compiled}) == distinct
    if stack is not None:
        assert max(spill_bytes(kernel) for kernel in compiled) <= stack


def test_unsupported_calls():
    x, weight, bias = torch.zeros(1, 1, 2, 2, 8), torch.zeros(3, 3, 3, 8), torch.zeros(8)

    def unsupported(x: torch.Tensor) -> str | None:
        return refusal(kernels.peg, x, weight, bias)

    assert unsupported(x) == "the tensors are on cpu, not on a GPU"
    assert "batch=65536 and height=2 must be at most 65535" in unsupported(x.expand(65_536, -1, -1, -1, -1))
    assert "height=65536 must be at most" in unsupported(x[:, :, :1].expand(-1, -1, 65_536, -1, -1))
    assert unsupported(x.expand(-1, 1 << 14, -1, -1, -1)) == "the tensors are on cpu, not on a GPU"
    assert "exceed 32 bits" in unsupported(x.expand(-1, 1 << 15, -1, -1, -1))  # frames squared
    assert "exceed 32 bits" in unsupported(torch.zeros(1).expand(1, 2, 1 << 10, 1 << 10, 512))
    with pytest.raises(BackendUnavailableError, match="tensors are on cpu"):
        kernels.peg.run_on("triton", x, weight, bias)
