"""LayerNorm over channels, and what a product that has it folded in needs to know of each row; for inference."""

from kernels.dispatch import Form, Operator
from kernels.norm import op, reference

layer_norm = Operator(
    "layer_norm",
    {"triton": Form(op.layer_norm, op.refuse_layer_norm), "reference": Form(reference.layer_norm)},
)
row_statistics = Operator(
    "row_statistics",
    {"triton": Form(op.row_statistics, op.refuse_statistics), "reference": Form(reference.row_statistics)},
)

__all__ = ["layer_norm", "row_statistics"]
