"""Attention within sequences of heads whose width is any multiple of 8, such as 72; for inference."""

from kernels.runtime.dispatch import Operator
from kernels.sequence_attention import library, op, reference

sequence_attention = Operator(
    "sequence_attention", reference.SequenceArgs, reference.sequence_attention, triton=op.TRITON, torch=library.TORCH
)

__all__ = ["sequence_attention"]
