"""Positional encoding by a depthwise 3x3x3 convolution with a residual (reference.md, Tokenizer 4)."""

from kernels.dispatch import Form, Operator
from kernels.peg import library, reference

peg = Operator("peg", {"sdpa": Form(library.peg, library.refuse), "reference": Form(reference.peg)})

__all__ = ["peg"]
