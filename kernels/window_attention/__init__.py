"""Attention inside square windows of each frame (section 3.1.1; reference.md, Tokenizer 6)."""

from torch import Tensor

from kernels.dispatch import Form, Operator
from kernels.window_attention import reference, sdpa


def _signature(qkv: Tensor, bias_table: Tensor, window: int) -> Tensor:
    """Attention among the tokens of each window: softmax(q k^T / sqrt(D) + bias) v.

    Windows are cut from the top left; where the grid does not divide, the last ones are smaller.

    Args:
        qkv (Tensor): shape (B, T, h, w, 3, H, D).
        bias_table (Tensor): shape ((2*window - 1)^2, H); row (dy + window - 1) * (2*window - 1) + dx + window - 1 is
            the bias for a query dy rows and dx columns after its key.
        window (int): side of a window, in tokens.

    Returns:
        Tensor: shape (B, T, h, w, H, D), dtype of `qkv`.
    """
    raise NotImplementedError


window_attention = Operator(
    "window_attention", _signature, {"sdpa": Form(sdpa.window_attention), "reference": Form(reference.window_attention)}
)

__all__ = ["window_attention"]
