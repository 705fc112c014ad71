"""Positional encoding by a depthwise 3x3x3 convolution with a residual (reference.md, Tokenizer 4)."""

from kernels.peg import library, op, reference
from kernels.runtime.dispatch import Form, Operator

peg = Operator(
    "peg",
    {
        "triton": Form(op.peg, op.refuse),
        "sdpa": Form(library.peg, avoid=library.avoid),
        "reference": Form(reference.peg),
    },
)

__all__ = ["peg"]
