"""Full attention over the positions of each frame (section 3.1.1; reference.md, Tokenizer 5)."""

from torch import Tensor

from kernels.dispatch import Form, Operator
from kernels.spatial_attention import reference, sdpa
from kernels.spatial_attention.rope import RopeTable, rope_table


def _signature(
    q: Tensor, kv: Tensor, q_scale: Tensor, k_scale: Tensor, rope: RopeTable | None = None, bias: Tensor | None = None
) -> Tensor:
    """Cosine attention within each frame: rotate, l2-normalise, scale, then softmax(8 q k^T + bias) v.

    Args:
        q (Tensor): shape (B, T, h, w, H, D).
        kv (Tensor): shape (B, T, h, w, 2, H, D), keys then values; may be strided.
        q_scale, k_scale (Tensor): shape (D,), learned.
        rope (RopeTable): cosines and sines of the positions of an h x w grid, or None.
        bias (Tensor): additive logits, shape (H, h*w, h*w), or None.

    Returns:
        Tensor: shape (B, T, h, w, H, D), dtype of `kv`.
    """
    raise NotImplementedError


spatial_attention = Operator(
    "spatial_attention",
    _signature,
    {"sdpa": Form(sdpa.spatial_attention), "reference": Form(reference.spatial_attention)},
)

__all__ = ["RopeTable", "rope_table", "spatial_attention"]
