"""Decode attention on torch's scaled_dot_product_attention, row by row over views of the cache, for CPUs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.decode_attention.reference import DecodeArgs, append
from kernels.runtime.dispatch import Implementation


def decode_attention(args: DecodeArgs) -> Tensor:
    """Run torch's attention on each row's own length."""
    qkv, cache, slots, lengths, *_ = args
    append(args)
    out = torch.zeros_like(qkv[:, 0])
    for row, (slot, length) in enumerate(zip(slots.tolist(), lengths.tolist(), strict=True)):
        if length:
            keys, values = cache[:, slot, :, :length].to(qkv.dtype)  # (H, length, D)
            out[row] = F.scaled_dot_product_attention(qkv[row, 0, :, None], keys, values)[:, 0]
    return out


def unsupported(args: DecodeArgs) -> str | None:
    """Return why torch's call cannot run this call, or None."""
    return (
        f"it reads the lengths on the host, and they are on {args.lengths.device.type}"
        if args.lengths.is_cuda
        else None
    )


TORCH = Implementation(decode_attention, unsupported)
