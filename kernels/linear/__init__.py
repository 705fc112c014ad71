"""The model's matrix products fused with their neighbours, for inference (docs/model.md, Tokenizer 5 to 7)."""

from kernels.linear import op, reference
from kernels.linear.reference import Folded, fold, interleave_gates
from kernels.runtime.dispatch import Implementation, Operator

gated_linear = Operator(
    "gated_linear",
    reference.gated_linear,
    triton=Implementation(op.gated_linear, op.gated_linear_unsupported),
)
attention_inputs = Operator(
    "attention_inputs",
    reference.attention_inputs,
    triton=Implementation(op.attention_inputs, op.attention_inputs_unsupported),
)
residual_linear = Operator(
    "residual_linear",
    reference.residual_linear,
    triton=Implementation(op.residual_linear, op.residual_linear_unsupported, op.residual_linear_not_preferred),
)

__all__ = ["Folded", "attention_inputs", "fold", "gated_linear", "interleave_gates", "residual_linear"]
