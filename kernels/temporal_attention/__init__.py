"""Attention along time at each position of the grid (docs/model.md, Tokenizer 5)."""

from kernels.runtime.dispatch import Operator
from kernels.temporal_attention import library, op, reference

temporal_attention = Operator(
    "temporal_attention", reference.TemporalArgs, reference.temporal_attention, triton=op.TRITON, torch=library.TORCH
)

__all__ = ["temporal_attention"]
