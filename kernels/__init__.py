"""The model's operators: one folder each, plain torch as the definition of truth, with faster implementations."""

from kernels.adaptive_norm import adaptive_norm, gated_adaptive_norm
from kernels.attention_fixed_max import EXPONENT_SCALE, attention_fixed_max
from kernels.decode_attention import decode_attention
from kernels.decode_rows import read_rows, write_rows
from kernels.frame_attention import frame_attention
from kernels.gelu_linear import gelu_linear
from kernels.linear import Folded, attention_inputs, fold, gated_linear, interleave_gates, residual_linear
from kernels.norm import inverse_deviation, layer_norm
from kernels.patches import patchify, unpatchify
from kernels.peg import peg
from kernels.projection import vq_project
from kernels.resample import resample
from kernels.runtime.dispatch import BackendUnavailableError, Choice, requested_backend, use_backend
from kernels.sample_tokens import sample_tokens
from kernels.sequence_attention import sequence_attention
from kernels.spatial_attention import RopeTable, rope_table, spatial_attention
from kernels.temporal_attention import temporal_attention
from kernels.thin_linear import quantize_rows, thin_linear
from kernels.vq import vq_assign
from kernels.window_attention import window_attention

__all__ = [
    "EXPONENT_SCALE",
    "BackendUnavailableError",
    "Choice",
    "Folded",
    "RopeTable",
    "adaptive_norm",
    "attention_fixed_max",
    "attention_inputs",
    "decode_attention",
    "fold",
    "frame_attention",
    "gated_adaptive_norm",
    "gated_linear",
    "gelu_linear",
    "interleave_gates",
    "inverse_deviation",
    "layer_norm",
    "patchify",
    "peg",
    "quantize_rows",
    "read_rows",
    "requested_backend",
    "resample",
    "residual_linear",
    "rope_table",
    "sample_tokens",
    "sequence_attention",
    "spatial_attention",
    "temporal_attention",
    "thin_linear",
    "unpatchify",
    "use_backend",
    "vq_assign",
    "vq_project",
    "window_attention",
    "write_rows",
]
