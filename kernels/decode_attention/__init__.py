"""Attention of one new position a row over a cache of keys and values (docs/model.md, Language model)."""

from kernels.decode_attention import library, op, reference
from kernels.runtime.dispatch import Operator

decode_attention = Operator(
    "decode_attention", reference.DecodeArgs, reference.decode_attention, triton=op.TRITON, torch=library.TORCH
)

__all__ = ["decode_attention"]
