"""Full attention over the positions of each frame (section 3.1.1; reference.md, Tokenizer 5)."""

from kernels.runtime.dispatch import Form, Operator
from kernels.spatial_attention import op, reference, sdpa
from kernels.spatial_attention.rope import RopeTable, rope_table

spatial_attention = Operator(
    "spatial_attention",
    {
        "triton": Form(op.run, op.refuse),
        "sdpa": Form(sdpa.spatial_attention),
        "reference": Form(reference.spatial_attention),
    },
)

__all__ = ["RopeTable", "rope_table", "spatial_attention"]
