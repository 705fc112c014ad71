"""Attention inside square windows of each frame (docs/model.md, Tokenizer 6)."""

from kernels.runtime.dispatch import Operator
from kernels.window_attention import library, op, reference

window_attention = Operator(
    "window_attention", reference.WindowArgs, reference.window_attention, triton=op.TRITON, torch=library.TORCH
)

__all__ = ["window_attention"]
