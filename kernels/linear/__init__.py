"""The model's matrix products fused with their neighbours, for inference (docs/model.md, Tokenizer 5 to 7)."""

from kernels.linear import op, reference
from kernels.linear.reference import Folded, fold, interleave_gates
from kernels.runtime.dispatch import Operator

gated_linear = Operator("gated_linear", reference.GatedArgs, reference.gated_linear, triton=op.GATED)
attention_inputs = Operator(
    "attention_inputs", reference.AttentionInputsArgs, reference.attention_inputs, triton=op.ATTENTION_INPUTS
)
residual_linear = Operator("residual_linear", reference.ResidualArgs, reference.residual_linear, triton=op.RESIDUAL)

__all__ = ["Folded", "attention_inputs", "fold", "gated_linear", "interleave_gates", "residual_linear"]
