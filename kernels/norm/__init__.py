"""LayerNorm over channels, and its divisor alone for a product that has folded the rest; for inference."""

from kernels.norm import op, reference
from kernels.runtime.dispatch import Operator

layer_norm = Operator("layer_norm", reference.LayerNormArgs, reference.layer_norm, triton=op.LAYER_NORM)
inverse_deviation = Operator(
    "inverse_deviation", reference.DeviationArgs, reference.inverse_deviation, triton=op.INVERSE_DEVIATION
)

__all__ = ["inverse_deviation", "layer_norm"]
