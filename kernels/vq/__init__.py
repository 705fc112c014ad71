"""Nearest code of each vector (section 3.1.1; reference.md, Tokenizer 8)."""

from torch import Tensor

from kernels.dispatch import Form, Operator
from kernels.vq import reference


def _signature(z: Tensor, codebook: Tensor) -> Tensor:
    """Index of the code at the smallest squared distance; the lowest index wins ties.

    Args:
        z (Tensor): shape (..., d), any float dtype; compared in float32 (float64 stays).
        codebook (Tensor): shape (K, d).

    Returns:
        Tensor: int64, shape (...).
    """
    raise NotImplementedError


vq_assign = Operator("vq_assign", _signature, {"reference": Form(reference.vq_assign)})

__all__ = ["vq_assign"]
