"""LayerNorm with the scale and shift of an item, after a gated residual or alone (adaLN); for inference."""

from kernels.adaptive_norm import op, reference
from kernels.runtime.dispatch import Operator

adaptive_norm = Operator("adaptive_norm", reference.AdaptiveNormArgs, reference.adaptive_norm, triton=op.ADAPTIVE_NORM)
gated_adaptive_norm = Operator(
    "gated_adaptive_norm", reference.GatedNormArgs, reference.gated_adaptive_norm, triton=op.GATED_ADAPTIVE_NORM
)

__all__ = ["adaptive_norm", "gated_adaptive_norm"]
