"""Sampling as a custom operator; ids have no gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.runtime.custom_op import launch_op
from kernels.runtime.device import triton_unsupported
from kernels.runtime.dispatch import Implementation
from kernels.sample_tokens.reference import SampleArgs

MAX_IDS = 1 << 15  # a row of keys and weights fits the registers of one program

sample = launch_op("sample_tokens.sample_tokens", SampleArgs)


@sample.register_fake
def _(logits: Tensor, conditional: Tensor, *rest: Tensor | int) -> Tensor:
    return conditional.new_empty(conditional.shape, dtype=torch.int64)


def unsupported(args: SampleArgs) -> str | None:
    """Return why the kernel cannot run this call, or None."""
    if args.logits.shape[-1] > MAX_IDS:
        return f"V={args.logits.shape[-1]} must be at most {MAX_IDS}"
    return triton_unsupported(args.logits, differentiable=False)


TRITON = Implementation.of_op(sample, unsupported)
