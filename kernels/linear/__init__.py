"""The model's matrix products with what surrounds them, for inference (reference.md, Tokenizer 5 to 7)."""

from kernels.linear import op, reference
from kernels.linear.reference import Folded, fold, in_turn
from kernels.runtime.dispatch import Form, Operator

gated_linear: Operator[...] = Operator(
    "gated_linear",
    {"triton": Form(op.gated_linear, op.refuse_gated), "reference": Form(reference.gated_linear)},
)
attention_inputs: Operator[...] = Operator(
    "attention_inputs",
    {"triton": Form(op.attention_inputs, op.refuse_attention), "reference": Form(reference.attention_inputs)},
)
residual_linear: Operator[...] = Operator(
    "residual_linear",
    {
        "triton": Form(op.residual_linear, op.refuse_residual, op.avoid_residual),
        "reference": Form(reference.residual_linear),
    },
)

__all__ = ["Folded", "attention_inputs", "fold", "gated_linear", "in_turn", "residual_linear"]
