"""Nearest code of each vector (section 3.1.1; reference.md, Tokenizer 8)."""

from kernels.dispatch import Form, Operator
from kernels.vq import reference

vq_assign = Operator("vq_assign", {"reference": Form(reference.vq_assign)})

__all__ = ["vq_assign"]
