"""Launch of sampling: one program for each id. Imports triton."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.runtime.pdl import pdl_options
from kernels.sample_tokens.reference import SampleArgs
from kernels.sample_tokens.triton_kernels import LANES, sample_tokens_kernel

SMALL_MAX_SEGMENTS = 12  # whose numbers fit the registers of 8 warps


def sample_tokens(args: SampleArgs) -> Tensor:
    """Return one id a row, int64, shape (N,)."""
    logits = args.logits.contiguous()
    vocabulary = logits.shape[1]
    out = torch.empty(args.conditional.shape, dtype=torch.int64, device=logits.device)
    if not len(out):
        return out
    segments = -(-vocabulary // LANES.value)
    with torch.cuda.device_of(logits):
        sample_tokens_kernel[(len(out),)](
            logits,
            *(x.contiguous() for x in args[1:-1]),
            out,
            vocabulary,
            args.first_id,
            SEGMENTS=segments,
            num_warps=8 if segments <= SMALL_MAX_SEGMENTS else 16,
            enable_fp_fusion=False,  # a fused product and sum rounds once, the reference twice
            **pdl_options(logits),
        )
    return out
