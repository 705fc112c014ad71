"""The definition of temporal attention, on any device."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from kernels.spatial_attention.reference import LOGIT_SCALE, cosine


class TemporalArgs(NamedTuple):
    """The arguments of the operator.

    Args:
        q (Tensor): shape (B, T, h, w, H, D).
        kv (Tensor): shape (B, T, h, w, 2, H, D), keys and values as projected; may be strided.
        q_scale, k_scale (Tensor): shape (D,), learned.
        past_kv (Tensor): shape (B, P, h, w, 2, H, D), the `kv` of the P frames before these, or None.
        causal (bool): attend to this frame and earlier ones only.
        window (int): number of frames attended to, this one included, or None for all; causal only.
        slopes (Tensor): shape (H,), penalty a frame of distance, or None.
    """

    q: Tensor
    kv: Tensor
    q_scale: Tensor
    k_scale: Tensor
    past_kv: Tensor | None = None
    causal: bool = True
    window: int | None = None
    slopes: Tensor | None = None


def time_bias(
    queries: int, keys: int, causal: bool, window: int | None, slopes: Tensor | None, like: Tensor
) -> Tensor | None:
    """Return additive logits (H or 1, queries, keys) of the last `queries` of `keys` frames; None if all are 0.

    Args:
        queries, keys: numbers of frames.
        causal, window, slopes: as for `TemporalArgs`.
        like: gives the device and the dtype.
    """
    if window is not None and not causal:
        raise ValueError(f"window={window} needs causal attention; set causal=True or window=None.")
    key = torch.arange(keys, device=like.device)
    distance = key[keys - queries :, None] - key[None, :]
    bias = torch.zeros(1, queries, keys, dtype=like.dtype, device=like.device)
    if slopes is not None:
        bias = bias - slopes.to(like.dtype)[:, None, None] * distance.abs()
    if causal:
        bias = bias.masked_fill(distance < 0, -torch.inf)
    if window is not None:
        bias = bias.masked_fill(distance >= window, -torch.inf)
    return bias if causal or slopes is not None else None


def temporal_attention(args: TemporalArgs) -> Tensor:
    """Return softmax(8 q k^T - slope |i - j|) v over the frames of each position, for normalised and scaled q and k.

    Returns:
        Tensor: shape (B, T, h, w, H, D), dtype of `kv`.
    """
    q, kv, q_scale, k_scale, past_kv, causal, window, slopes = args
    kv = kv if past_kv is None else torch.cat((past_kv, kv), dim=1)
    k, v = kv.unbind(4)  # (B, K, h, w, H, D)
    q, k = cosine(q, q_scale), cosine(k, k_scale)
    logits = LOGIT_SCALE * torch.einsum("bqyxnd,bkyxnd->byxnqk", q, k)
    bias = time_bias(q.shape[1], k.shape[1], causal, window, slopes, logits)
    if bias is not None:
        logits = logits + bias
    return torch.einsum("byxnqk,bkyxnd->bqyxnd", logits.softmax(-1), v.to(logits.dtype)).to(v.dtype)
