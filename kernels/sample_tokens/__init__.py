"""One token from each row of logits: guidance, temperature, top-k, top-p and a draw (docs/model.md, Sampling)."""

from kernels.runtime.dispatch import Operator
from kernels.sample_tokens import op, reference

sample_tokens = Operator("sample_tokens", reference.SampleArgs, reference.sample_tokens, triton=op.TRITON)

__all__ = ["sample_tokens"]
