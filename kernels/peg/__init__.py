"""Positional encoding by a depthwise 3x3x3 convolution with a residual (reference.md, Tokenizer 4)."""

from typing import Literal

from torch import Tensor

from kernels.dispatch import Form, Operator
from kernels.peg import library, reference


def _signature(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    past: Tensor | None = None,
    causal: bool = True,
    order: Literal["causal", "published"] = "causal",
) -> Tensor:
    """x + depthwise convolution of x over (T, h, w), zero padded by 1 in space.

    Args:
        x (Tensor): shape (B, T, h, w, C).
        weight (Tensor): shape (3, 3, 3, C), taps over (t, y, x).
        bias (Tensor): shape (C,).
        past (Tensor): shape (B, 2, h, w, C), the frames before these, or None for zeros; causal only.
        causal (bool): whether time is padded 2 before and 0 after, else 1 and 1.
        order (str): "causal" convolves over (T, h, w) as it is; "published" over the memory of (h, w, T) read as if it
            were (T, h, w), which the released weights of temporal layers need.

    Returns:
        Tensor: shape (B, T, h, w, C), dtype of `x`.
    """
    raise NotImplementedError


peg = Operator("peg", _signature, {"sdpa": Form(library.peg, library.refuse), "reference": Form(reference.peg)})

__all__ = ["peg"]
