"""Padding of convolutions and pools that keeps ceil(size / stride) positions, TensorFlow's rule "SAME"."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def pad_same(x: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Pad the last axes with zeros; where their number is odd, the end gets one more than the beginning.

    Args:
        x: (..., *sizes), one size for each entry of `kernel`.
        kernel, stride: of the layer that follows, which pads nothing itself.
    """
    amounts: list[int] = []
    for size, width, step in zip(x.shape[-len(kernel) :], kernel, stride, strict=True):
        total = max((-(-size // step) - 1) * step + width - size, 0)
        amounts = [total // 2, total - total // 2, *amounts]  # F.pad names the last axis first
    return F.pad(x, amounts) if any(amounts) else x
