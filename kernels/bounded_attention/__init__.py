"""Full attention over packed queries, keys and values whose logits are bounded; for inference (section 3.1.1)."""

from kernels.bounded_attention import op, reference, sdpa
from kernels.bounded_attention.reference import EXPONENT_SCALE
from kernels.runtime.dispatch import Form, Operator

bounded_attention = Operator(
    "bounded_attention",
    {
        "triton": Form(op.run, op.refuse, op.avoid),
        "sdpa": Form(sdpa.bounded_attention),
        "reference": Form(reference.bounded_attention),
    },
)

__all__ = ["EXPONENT_SCALE", "bounded_attention"]
