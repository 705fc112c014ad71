"""Pixels as bytes to vectors of patches and back (section 3.1.1, Patchify; reference.md, Tokenizer 1 and 9)."""

from kernels.patches import op, reference
from kernels.runtime.dispatch import Form, Operator

patchify: Operator[...] = Operator(
    "patchify", {"triton": Form(op.patchify, op.refuse_patchify), "reference": Form(reference.patchify)}
)
unpatchify: Operator[...] = Operator(
    "unpatchify", {"triton": Form(op.unpatchify, op.refuse_unpatchify), "reference": Form(reference.unpatchify)}
)

__all__ = ["patchify", "unpatchify"]
