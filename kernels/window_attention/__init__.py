"""Attention inside square windows of each frame (section 3.1.1; docs/model.md, Tokenizer 6)."""

from kernels.runtime.dispatch import Implementation, Operator
from kernels.window_attention import library, op, reference

window_attention = Operator(
    "window_attention",
    {
        "triton": Implementation(op.run, op.unsupported),
        "torch": Implementation(library.window_attention),
        "reference": Implementation(reference.window_attention),
    },
)

__all__ = ["window_attention"]
