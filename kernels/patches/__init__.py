"""Pixels as bytes to vectors of patches, and back (docs/model.md, Tokenizer 1 and 9)."""

from kernels.patches import op, reference
from kernels.runtime.dispatch import Implementation, Operator

patchify = Operator(
    "patchify",
    reference.patchify,
    triton=Implementation(op.patchify, op.patchify_unsupported),
)
unpatchify = Operator(
    "unpatchify",
    reference.unpatchify,
    triton=Implementation(op.unpatchify, op.unpatchify_unsupported),
)

__all__ = ["patchify", "unpatchify"]
