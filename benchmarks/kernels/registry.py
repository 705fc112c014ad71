"""The operators to check and time."""

from __future__ import annotations

from benchmarks.kernels import (
    attention_fixed_max,
    decode_attention,
    diffusion,
    linear,
    norm,
    patches,
    peg,
    sample_tokens,
    spatial_attention,
    temporal_attention,
    thin_linear,
    vq,
    vq_project,
    window_attention,
)
from benchmarks.kernels.operation import Operation

OPERATIONS: tuple[Operation, ...] = (
    peg.OPERATION,
    vq.OPERATION,
    vq_project.OPERATION,
    window_attention.OPERATION,
    temporal_attention.OPERATION,
    spatial_attention.COSINE,
    spatial_attention.OPERATION,
    attention_fixed_max.OPERATION,
    linear.GATED,
    linear.ATTENTION,
    linear.RESIDUAL,
    norm.LAYER_NORM,
    norm.DEVIATION,
    patches.PATCHIFY,
    patches.UNPATCHIFY,
    sample_tokens.OPERATION,
    thin_linear.OPERATION,
    decode_attention.OPERATION,
    diffusion.SEQUENCES,
    diffusion.FRAMES,
    diffusion.ADAPTIVE_NORM,
)
