"""LayerNorm over channels, and the divisor alone for a product that has the rest folded in; for inference."""

from kernels.norm import op, reference
from kernels.runtime.dispatch import Implementation, Operator

layer_norm = Operator(
    "layer_norm",
    {
        "triton": Implementation(op.layer_norm, op.layer_norm_unsupported),
        "reference": Implementation(reference.layer_norm),
    },
)
inverse_deviation = Operator(
    "inverse_deviation",
    {
        "triton": Implementation(op.inverse_deviation, op.inverse_deviation_unsupported),
        "reference": Implementation(reference.inverse_deviation),
    },
)

__all__ = ["inverse_deviation", "layer_norm"]
