"""Products of few rows with large weights, as a decode step has them (docs/model.md, Language model)."""

from kernels.runtime.dispatch import Operator
from kernels.thin_linear import op, reference
from kernels.thin_linear.op import moments_for
from kernels.thin_linear.reference import quantize_rows

thin_linear = Operator("thin_linear", reference.ThinArgs, reference.thin_linear, triton=op.TRITON)

__all__ = ["moments_for", "quantize_rows", "thin_linear"]
