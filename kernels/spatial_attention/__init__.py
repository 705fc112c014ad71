"""Full attention over the positions of each frame (docs/model.md, Tokenizer 5)."""

from kernels.runtime.dispatch import Operator
from kernels.spatial_attention import library, op, reference
from kernels.spatial_attention.rope import RopeTable, rope_table

spatial_attention = Operator(
    "spatial_attention", reference.SpatialArgs, reference.spatial_attention, triton=op.TRITON, torch=library.TORCH
)

__all__ = ["RopeTable", "rope_table", "spatial_attention"]
