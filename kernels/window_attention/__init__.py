"""Attention inside square windows of each frame (docs/model.md, Tokenizer 6)."""

from kernels.runtime.dispatch import Implementation, Operator
from kernels.window_attention import library, op, reference

window_attention = Operator(
    "window_attention",
    reference.WindowArgs,
    reference.window_attention,
    triton=Implementation.of_op(op.window_attention, op.unsupported),
    torch=Implementation(library.window_attention),
)

__all__ = ["window_attention"]
