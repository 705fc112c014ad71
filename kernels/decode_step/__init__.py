"""A whole decode step of one or two rows in one launch (docs/decoding.md)."""

from kernels.decode_step import op, reference
from kernels.decode_step.reference import StepProduct, make_state, pack
from kernels.runtime.dispatch import Operator

decode_step = Operator("decode_step", reference.StepArgs, reference.decode_step, triton=op.TRITON)

__all__ = ["StepProduct", "decode_step", "make_state", "pack"]
