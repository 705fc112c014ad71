"""Attention along time at each position of the grid (section 3.1.1; docs/model.md, Tokenizer 5)."""

from kernels.runtime.dispatch import Implementation, Operator
from kernels.temporal_attention import library, op, reference

temporal_attention = Operator(
    "temporal_attention",
    {
        "triton": Implementation(op.run, op.unsupported),
        "torch": Implementation(library.temporal_attention),
        "reference": Implementation(reference.temporal_attention),
    },
)

__all__ = ["temporal_attention"]
