"""Attention along time at each position of the grid (section 3.1.1; reference.md, Tokenizer 5)."""

from kernels.runtime.dispatch import Form, Operator
from kernels.temporal_attention import op, reference, sdpa

temporal_attention = Operator(
    "temporal_attention",
    {
        "triton": Form(op.run, op.refuse),
        "sdpa": Form(sdpa.temporal_attention),
        "reference": Form(reference.temporal_attention),
    },
)

__all__ = ["temporal_attention"]
