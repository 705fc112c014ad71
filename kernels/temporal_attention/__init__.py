"""Attention along time at each position of the grid (section 3.1.1; reference.md, Tokenizer 5)."""

from torch import Tensor

from kernels.dispatch import Form, Operator
from kernels.temporal_attention import reference, sdpa


def _signature(
    q: Tensor,
    kv: Tensor,
    q_scale: Tensor,
    k_scale: Tensor,
    past_kv: Tensor | None = None,
    causal: bool = True,
    window: int | None = None,
    slopes: Tensor | None = None,
) -> Tensor:
    """Cosine attention of each position over its own past: l2-normalise, scale, softmax(8 q k^T - slope |i - j|) v.

    Args:
        q (Tensor): shape (B, T, h, w, H, D).
        kv (Tensor): shape (B, T, h, w, 2, H, D), keys then values, as projected; may be strided.
        q_scale, k_scale (Tensor): shape (D,), learned.
        past_kv (Tensor): shape (B, P, h, w, 2, H, D), the `kv` of the P frames before these, or None.
        causal (bool): whether a frame sees only itself and earlier ones.
        window (int): number of frames that a frame attends to, itself included, or None for all; causal only.
        slopes (Tensor): shape (H,), linear distance penalties, or None.

    Returns:
        Tensor: shape (B, T, h, w, H, D), dtype of `kv`.
    """
    raise NotImplementedError


temporal_attention = Operator(
    "temporal_attention",
    _signature,
    {"sdpa": Form(sdpa.temporal_attention), "reference": Form(reference.temporal_attention)},
)

__all__ = ["temporal_attention"]
