"""LayerNorm over channels, and the divisor alone for a product that has the rest folded in; for inference."""

from kernels.norm import op, reference
from kernels.runtime.dispatch import Form, Operator

layer_norm = Operator(
    "layer_norm",
    {"triton": Form(op.layer_norm, op.refuse_layer_norm), "reference": Form(reference.layer_norm)},
)
inverse_deviation = Operator(
    "inverse_deviation",
    {"triton": Form(op.inverse_deviation, op.refuse_deviation), "reference": Form(reference.inverse_deviation)},
)

__all__ = ["inverse_deviation", "layer_norm"]
