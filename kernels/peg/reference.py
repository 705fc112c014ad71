"""The definition of the positional convolution: a sum of 27 shifted products, channels last."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class PegArgs(NamedTuple):
    """The arguments of the operator.

    Args:
        x (Tensor): shape (B, T, h, w, C).
        weight (Tensor): shape (3, 3, 3, C), taps over (t, y, x).
        bias (Tensor): shape (C,).
        past (Tensor): shape (B, 2, h, w, C), the frames before these, or None for zeros; causal only.
        causal (bool): pad time by 2 before and 0 after; else by 1 and 1.
        order (str): "causal" convolves over (T, h, w). "published" reinterprets the memory of (h, w, T) as (T, h, w)
            first, as the released weights of temporal layers need.
    """

    x: Tensor
    weight: Tensor
    bias: Tensor
    past: Tensor | None = None
    causal: bool = True
    order: str = "causal"

    @property
    def scrambled(self) -> bool:
        """Return whether rows are read out of their order in memory."""
        return self.order == "published" and self.x.shape[1] > 1


def check_past(args: PegArgs) -> None:
    """Raise ValueError for frames of an earlier chunk, unless the convolution is causal and in causal order."""
    if args.past is not None and (args.order == "published" or not args.causal):
        raise ValueError(f"past needs causal=True and order='causal', not {args.causal} and {args.order!r}.")


def peg(args: PegArgs) -> Tensor:
    """Return x plus the depthwise convolution of x over (T, h, w), zero padded by 1 in space.

    Returns:
        Tensor: shape (B, T, h, w, C), dtype of `x`.
    """
    check_past(args)
    x, weight, bias, past, causal, _ = args
    batch, frames, height, width, channels = x.shape
    if args.scrambled:
        out = peg(PegArgs(x.permute(0, 2, 3, 1, 4).reshape(x.shape), weight, bias, causal=causal))
        return out.reshape(batch, height, width, frames, channels).permute(0, 3, 1, 2, 4)

    before = 2 if causal else 1
    if past is not None:
        taps, around = range(3), torch.cat((past, x), dim=1)
    elif frames == 1:
        taps, around = range(before, before + 1), x  # the other taps only see padding
    else:
        taps, around = range(3), F.pad(x, (0, 0, 0, 0, 0, 0, before, 2 - before))
    around = F.pad(around, (0, 0, 1, 1, 1, 1))
    out = x + bias
    for start, t in enumerate(taps):
        for y in range(3):
            for z in range(3):
                shifted = around[:, start : start + frames, y : y + height, z : z + width]
                out = out + shifted * weight[t, y, z]
    return out
