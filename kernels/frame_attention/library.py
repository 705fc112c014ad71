"""Attention along frames on torch's scaled_dot_product_attention, every position a batch row."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kernels.frame_attention.reference import FrameArgs
from kernels.runtime.dispatch import Implementation


def frame_attention(args: FrameArgs) -> Tensor:
    """Run torch's attention."""
    q, k, v = args.qkv.permute(3, 0, 2, 4, 1, 5).flatten(1, 2)  # (B*N, H, T, D) each
    out = F.scaled_dot_product_attention(q, k, v)
    return out.unflatten(0, (args.qkv.shape[0], -1)).permute(0, 3, 1, 2, 4)


TORCH = Implementation(frame_attention)
