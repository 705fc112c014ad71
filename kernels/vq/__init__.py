"""The nearest code of each vector (docs/model.md, Tokenizer 8)."""

from kernels.runtime.dispatch import Operator
from kernels.vq import op, reference
from kernels.vq.op import prepare
from kernels.vq.reference import CodeTable

vq_assign = Operator("vq_assign", reference.AssignArgs, reference.vq_assign, triton=op.TRITON)

__all__ = ["CodeTable", "prepare", "vq_assign"]
