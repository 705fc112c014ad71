"""Full attention over packed queries, keys and values with a fixed maximum, for inference (docs/model.md)."""

from kernels.attention_fixed_max import library, op, reference
from kernels.attention_fixed_max.reference import EXPONENT_SCALE
from kernels.runtime.dispatch import Operator

attention_fixed_max = Operator(
    "attention_fixed_max", reference.FixedMaxArgs, reference.attention_fixed_max, triton=op.TRITON, torch=library.TORCH
)

__all__ = ["EXPONENT_SCALE", "attention_fixed_max"]
