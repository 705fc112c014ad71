"""Code assignment as custom operators: opaque to the compiler, without a gradient.

The launches are imported when they are first called, since a machine without a GPU need not have triton.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.runtime.device import triton_unsupported
from kernels.vq.reference import CodeTable

CODE_DIMS = (4, 8, 16, 32)


@torch.library.custom_op("omnitok::vq_prepare", mutates_args=())
def pack_codebook(codebook: Tensor) -> tuple[Tensor, Tensor]:
    """Pieces of scores and codes by group of a codebook (K, d)."""
    from kernels.vq import launch

    return launch.prepare(codebook)


@pack_codebook.register_fake
def _(codebook: Tensor) -> tuple[Tensor, Tensor]:
    from kernels.vq import launch

    return launch.empty_table(codebook)


@torch.library.custom_op("omnitok::vq_assign", mutates_args=())
def assign(z: Tensor, pieces: Tensor, exact: Tensor, codes: int) -> Tensor:
    """Indices (...) of vectors (..., d) among the first `codes` of a table."""
    from kernels.vq import launch

    return launch.assign(z, pieces, exact, codes)


@assign.register_fake
def _(z: Tensor, pieces: Tensor, exact: Tensor, codes: int) -> Tensor:
    return z.new_empty(z.shape[:-1], dtype=torch.int64)


def unsupported(z: Tensor, codebook: Tensor, table: CodeTable | None = None) -> str | None:
    """Say why the kernel cannot run this call."""
    if codebook.shape[-1] not in CODE_DIMS:
        return f"codes of {codebook.shape[-1]} dimensions are not among {CODE_DIMS}"
    return triton_unsupported(z, codebook)


def prepare(codebook: Tensor) -> CodeTable | None:
    """Lay out a codebook that stays as it is, once for many calls; None where the kernel cannot run.

    Args:
        codebook (Tensor): shape (K, d).
    """
    return None if unsupported(codebook, codebook) else CodeTable(*pack_codebook(codebook.detach()))


def vq_assign(z: Tensor, codebook: Tensor, table: CodeTable | None = None) -> Tensor:
    """The operator on our kernel; indices have no gradient."""
    pieces, exact = table or pack_codebook(codebook.detach())
    return assign(z.detach(), pieces, exact, codebook.shape[0])
