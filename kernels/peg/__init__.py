"""Positional encoding by a depthwise 3x3x3 convolution with a residual (docs/model.md, Tokenizer 4)."""

from kernels.peg import library, op, reference
from kernels.runtime.dispatch import Operator

peg = Operator("peg", reference.PegArgs, reference.peg, triton=op.TRITON, torch=library.TORCH)

__all__ = ["peg"]
