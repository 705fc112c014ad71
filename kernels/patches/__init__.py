"""Pixels as bytes to vectors of patches, and back (docs/model.md, Tokenizer 1 and 9)."""

from kernels.patches import op, reference
from kernels.runtime.dispatch import Operator

patchify = Operator("patchify", reference.PatchifyArgs, reference.patchify, triton=op.PATCHIFY)
unpatchify = Operator("unpatchify", reference.UnpatchifyArgs, reference.unpatchify, triton=op.UNPATCHIFY)

__all__ = ["patchify", "unpatchify"]
