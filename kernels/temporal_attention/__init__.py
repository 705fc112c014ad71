"""Attention along time at each position of the grid (docs/model.md, Tokenizer 5)."""

from kernels.runtime.dispatch import Implementation, Operator
from kernels.temporal_attention import library, op, reference

temporal_attention = Operator(
    "temporal_attention",
    reference.TemporalArgs,
    reference.temporal_attention,
    triton=Implementation.of_op(op.temporal_attention, op.unsupported),
    torch=Implementation(library.temporal_attention),
)

__all__ = ["temporal_attention"]
