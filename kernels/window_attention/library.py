"""Window attention by partition, torch's scaled_dot_product_attention, and reversal."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.runtime.dispatch import Implementation
from kernels.window_attention.reference import WindowArgs, relative_index


def window_attention(args: WindowArgs) -> Tensor:
    """Run torch's attention on padded windows."""
    qkv, bias_table, window = args
    batch, frames, height, width = qkv.shape[:4]
    bottom, right = -height % window, -width % window
    padded = F.pad(qkv, (0, 0, 0, 0, 0, 0, 0, right, 0, bottom)) if bottom or right else qkv
    down, across = (height + bottom) // window, (width + right) // window
    tiles = padded.unflatten(3, (across, window)).unflatten(2, (down, window))  # (B, T, down, y, across, x, 3, H, D)
    tiles = tiles.transpose(3, 4).flatten(4, 5)  # (B, T, down, across, y*x, 3, H, D)
    q, k, v = tiles.flatten(0, 1).permute(4, 0, 1, 2, 5, 3, 6)  # each (B*T, down, across, H, y*x, D)

    offset = torch.arange(window, device=qkv.device)
    index = relative_index(offset.repeat_interleave(window), offset.repeat(window), window)
    mask = bias_table[index].permute(2, 0, 1).to(q.dtype)  # (H, y*x, y*x)
    if bottom or right:
        row = torch.arange(height + bottom, device=qkv.device).view(down, 1, window, 1)
        column = torch.arange(width + right, device=qkv.device).view(1, across, 1, window)
        outside = ((row >= height) | (column >= width)).flatten(2)  # (down, across, y*x)
        mask = mask.expand(down, across, -1, -1, -1).masked_fill(outside[:, :, None, None, :], -torch.inf)
        mask = mask.flatten(0, 1).repeat(batch * frames, 1, 1, 1)

    q, k, v = (x.flatten(0, 2) for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # (B*T*down*across, H, y*x, D)
    out = out.transpose(1, 2).unflatten(0, (batch, frames, down, across)).unflatten(4, (window, window))
    out = out.transpose(3, 4).flatten(4, 5).flatten(2, 3)
    return out[:, :, :height, :width]


TORCH = Implementation(window_attention)
