"""The projection of the encoder's output to unit vectors or moments, in float32 (docs/model.md, Tokenizer 8)."""

from kernels.projection import op, reference
from kernels.runtime.dispatch import Operator

vq_project = Operator("vq_project", reference.ProjectArgs, reference.vq_project, triton=op.TRITON)

__all__ = ["vq_project"]
