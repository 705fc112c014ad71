"""Attention inside square windows of each frame (section 3.1.1; reference.md, Tokenizer 6)."""

from kernels.runtime.dispatch import Form, Operator
from kernels.window_attention import op, reference, sdpa

window_attention = Operator(
    "window_attention",
    {
        "triton": Form(op.run, op.refuse),
        "sdpa": Form(sdpa.window_attention),
        "reference": Form(reference.window_attention),
    },
)

__all__ = ["window_attention"]
