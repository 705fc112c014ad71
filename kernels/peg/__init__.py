"""Positional encoding by a depthwise 3x3x3 convolution with a residual (docs/model.md, Tokenizer 4)."""

from kernels.peg import library, op, reference
from kernels.runtime.dispatch import Implementation, Operator

peg = Operator(
    "peg",
    reference.PegArgs,
    reference.peg,
    triton=Implementation(op.peg, op.unsupported),
    torch=Implementation(library.peg, not_preferred=library.not_preferred),
)

__all__ = ["peg"]
