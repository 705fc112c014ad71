"""The definition of code assignment, in chunks that bound the distance matrix."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

CHUNK_ROWS = 16_384  # 512 MiB of distances for 8,192 codes in float32
CPU_CHUNK_ROWS = 256  # 8 MiB likewise: more leave the caches, and the allocator returns their pages after each call


class CodeTable(NamedTuple):
    """A codebook packed for the kernel by `prepare`.

    Args:
        pieces (Tensor): float16 factors of the scores.
        exact (Tensor): float32 codes for exact differences.
    """

    pieces: Tensor
    exact: Tensor


class AssignArgs(NamedTuple):
    """The arguments of the operator.

    Args:
        z (Tensor): shape (..., d), any float dtype; compared in float32 (float64 stays).
        codebook (Tensor): shape (K, d).
        table (CodeTable): `prepare(codebook)`, which saves a launch and changes nothing else.
    """

    z: Tensor
    codebook: Tensor
    table: CodeTable | None = None


def vq_assign(args: AssignArgs) -> Tensor:
    """Return the index of the code at the smallest squared distance; the lowest index wins ties.

    Returns:
        Tensor: int64, shape (...).
    """
    z, codebook, _ = args
    dtype = torch.float64 if z.dtype == torch.float64 else torch.float32
    codes = codebook.to(dtype)
    half_squares = 0.5 * codes.square().sum(-1)
    # argmin |z - e|^2 = argmin |e|^2 / 2 - z.e ; argmin takes the first of equal values
    rows = z.to(dtype).reshape(-1, z.shape[-1]).split(CPU_CHUNK_ROWS if z.device.type == "cpu" else CHUNK_ROWS)
    with torch.autocast(z.device.type, enabled=False):  # autocast would compare in half precision
        nearest = [torch.addmm(half_squares, part, codes.T, alpha=-1).argmin(-1) for part in rows]
    return torch.cat(nearest).view(z.shape[:-1])
