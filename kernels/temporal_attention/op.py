"""Temporal attention as a differentiable custom operator."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.runtime.custom_op import differentiable_op
from kernels.runtime.device import MAX_GRID_YZ, triton_unsupported
from kernels.runtime.dispatch import Implementation
from kernels.temporal_attention.reference import TemporalArgs

MAX_KEYS = 8  # all of them stay in registers
MAX_HEAD_DIM = 128

temporal_attention = differentiable_op("temporal_attention", TemporalArgs, grads=5)


@temporal_attention.register_fake
def _(q: Tensor, kv: Tensor, *args: Any) -> Tensor:
    return torch.empty(q.shape, dtype=kv.dtype, device=kv.device)


def unsupported(args: TemporalArgs) -> str | None:
    """Return why the kernels cannot run this call, or None."""
    q, kv, q_scale, k_scale, past_kv, causal, window, slopes = args
    if (reason := triton_unsupported(kv, q, past_kv, q_scale, k_scale, slopes)) is not None:
        return reason
    if q.dtype != kv.dtype or (past_kv is not None and past_kv.dtype != kv.dtype):
        return f"queries and carried keys must have the keys' dtype {kv.dtype}"
    keys = kv.shape[1] + (0 if past_kv is None else past_kv.shape[1])
    if keys > MAX_KEYS:
        return f"the {keys} keys of a query must be at most {MAX_KEYS}"
    if q.shape[-1] % 8 or q.shape[-1] > MAX_HEAD_DIM:
        return f"head_dim={q.shape[-1]} must be a multiple of 8 up to {MAX_HEAD_DIM}"
    if q.shape[0] > MAX_GRID_YZ:
        return f"batch={q.shape[0]} must be at most {MAX_GRID_YZ}"
    if window is not None and not causal:
        return f"window={window} needs causal attention"
    if slopes is not None and slopes.requires_grad and torch.is_grad_enabled():
        return "the slopes require gradients, which the kernels do not compute"
    return None


TRITON = Implementation.of_op(temporal_attention, unsupported)
