"""The model's matrix products with what surrounds them, for inference (docs/model.md, Tokenizer 5 to 7)."""

from kernels.linear import op, reference
from kernels.linear.reference import Folded, fold, interleave_gates
from kernels.runtime.dispatch import Implementation, Operator

gated_linear: Operator[...] = Operator(
    "gated_linear",
    {
        "triton": Implementation(op.gated_linear, op.gated_linear_unsupported),
        "reference": Implementation(reference.gated_linear),
    },
)
attention_inputs: Operator[...] = Operator(
    "attention_inputs",
    {
        "triton": Implementation(op.attention_inputs, op.attention_inputs_unsupported),
        "reference": Implementation(reference.attention_inputs),
    },
)
residual_linear: Operator[...] = Operator(
    "residual_linear",
    {
        "triton": Implementation(op.residual_linear, op.residual_linear_unsupported, op.residual_linear_not_preferred),
        "reference": Implementation(reference.residual_linear),
    },
)

__all__ = ["Folded", "attention_inputs", "fold", "gated_linear", "interleave_gates", "residual_linear"]
