"""Code assignment as custom operators; indices have no gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.runtime.custom_op import launch_op
from kernels.runtime.device import triton_unsupported
from kernels.runtime.dispatch import Implementation
from kernels.vq.reference import AssignArgs, CodeTable

CODE_DIMS = (4, 8, 16, 32)

pack_codebook = launch_op("vq.vq_prepare", "Tensor codebook", "(Tensor, Tensor)")
assign = launch_op("vq.vq_assign", "Tensor z, Tensor pieces, Tensor exact, int codes")


@pack_codebook.register_fake
def _(codebook: Tensor) -> tuple[Tensor, Tensor]:
    from kernels.vq import launch  # a machine without a GPU may lack triton

    return launch.empty_table(codebook)


@assign.register_fake
def _(z: Tensor, pieces: Tensor, exact: Tensor, codes: int) -> Tensor:
    return z.new_empty(z.shape[:-1], dtype=torch.int64)


def unsupported(args: AssignArgs) -> str | None:
    """Return why the kernel cannot run this call, or None."""
    if args.codebook.shape[-1] not in CODE_DIMS:
        return f"d={args.codebook.shape[-1]} must be one of {CODE_DIMS}"
    return triton_unsupported(args.z, args.codebook)


def prepare(codebook: Tensor) -> CodeTable | None:
    """Pack a constant codebook once for many calls; None where the kernel cannot run.

    Args:
        codebook (Tensor): shape (K, d).
    """
    return None if unsupported(AssignArgs(codebook, codebook)) else CodeTable(*pack_codebook(codebook.detach()))


def vq_assign(args: AssignArgs) -> Tensor:
    """Run the kernel."""
    pieces, exact = args.table or pack_codebook(args.codebook.detach())
    indices: Tensor = assign(args.z.detach(), pieces, exact, args.codebook.shape[0])
    return indices


TRITON = Implementation(vq_assign, unsupported)
