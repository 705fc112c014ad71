"""From the encoder's output to unit vectors or moments, in float32 (section 3.1.2; docs/model.md, Tokenizer 8)."""

from kernels.projection import op, reference
from kernels.runtime.dispatch import Implementation, Operator

vq_project = Operator(
    "vq_project",
    {"triton": Implementation(op.vq_project, op.unsupported), "reference": Implementation(reference.vq_project)},
)

__all__ = ["vq_project"]
