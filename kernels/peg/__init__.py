"""Positional encoding by a depthwise 3x3x3 convolution with a residual (reference.md, Tokenizer 4)."""

from kernels.dispatch import Form, Operator
from kernels.peg import library, op, reference

peg = Operator(
    "peg",
    {
        "triton": Form(op.peg, op.refuse),
        "sdpa": Form(library.peg, avoid=library.avoid),
        "reference": Form(reference.peg),
    },
)

__all__ = ["peg"]
