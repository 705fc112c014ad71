"""LayerNorm over channels, and its divisor alone for a product that has folded the rest; for inference."""

from kernels.norm import op, reference
from kernels.runtime.dispatch import Implementation, Operator

layer_norm = Operator(
    "layer_norm",
    reference.layer_norm,
    triton=Implementation(op.layer_norm, op.layer_norm_unsupported),
)
inverse_deviation = Operator(
    "inverse_deviation",
    reference.inverse_deviation,
    triton=Implementation(op.inverse_deviation, op.inverse_deviation_unsupported),
)

__all__ = ["inverse_deviation", "layer_norm"]
