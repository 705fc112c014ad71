"""Launch of sampling: one program for each id. Imports triton."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.runtime.pdl import pdl_options
from kernels.sample_tokens.reference import SampleArgs
from kernels.sample_tokens.triton_kernels import LANES, sample_tokens_kernel

IDS_OF_A_WARP = 1024  # 32 keys and 32 weights of a row in the registers of each thread
MAX_WARPS = 16


def sample(args: SampleArgs) -> Tensor:
    """Return one id a row, int64, shape (N,)."""
    logits = args.logits.contiguous()
    vocabulary = logits.shape[1]
    out = torch.empty(args.conditional.shape, dtype=torch.int64, device=logits.device)
    if not len(out):
        return out
    block = max(LANES.value, 1 << (vocabulary - args.first_id - 1).bit_length())
    with torch.cuda.device_of(logits):
        sample_tokens_kernel[(len(out),)](
            logits,
            *(x.contiguous() for x in args[1:-1]),
            out,
            vocabulary,
            args.first_id,
            BLOCK_V=block,
            num_warps=min(MAX_WARPS, max(4, block // IDS_OF_A_WARP)),
            enable_fp_fusion=False,  # a fused product and sum rounds once, the reference twice
            **pdl_options(logits),
        )
    return out
