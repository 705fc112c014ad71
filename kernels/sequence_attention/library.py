"""Attention within sequences on torch's scaled_dot_product_attention."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kernels.runtime.dispatch import Implementation
from kernels.sequence_attention.reference import SequenceArgs


def sequence_attention(args: SequenceArgs) -> Tensor:
    """Run torch's attention."""
    q, k, v = args.qkv.permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


TORCH = Implementation(sequence_attention)
