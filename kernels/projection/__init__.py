"""The projection of the encoder's output to unit vectors or moments, in float32 (docs/model.md, Tokenizer 8)."""

from kernels.projection import op, reference
from kernels.runtime.dispatch import Implementation, Operator

vq_project = Operator(
    "vq_project",
    reference.ProjectArgs,
    reference.vq_project,
    triton=Implementation.of_op(op.vq_project, op.unsupported),
)

__all__ = ["vq_project"]
