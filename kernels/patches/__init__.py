"""Pixels as bytes to vectors of patches and back (section 3.1.1, Patchify; docs/model.md, Tokenizer 1 and 9)."""

from kernels.patches import op, reference
from kernels.runtime.dispatch import Implementation, Operator

patchify: Operator[...] = Operator(
    "patchify",
    {"triton": Implementation(op.patchify, op.patchify_unsupported), "reference": Implementation(reference.patchify)},
)
unpatchify: Operator[...] = Operator(
    "unpatchify",
    {
        "triton": Implementation(op.unpatchify, op.unpatchify_unsupported),
        "reference": Implementation(reference.unpatchify),
    },
)

__all__ = ["patchify", "unpatchify"]
