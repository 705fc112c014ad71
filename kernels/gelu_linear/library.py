"""A product that ends in GELU by torch's library, or by the algorithm of cuBLASLt that `choice` found to be faster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.gelu_linear.reference import GeluLinearArgs
from kernels.runtime.dispatch import Implementation

ALIGNMENT_BYTES = 256  # which the library's heuristic assumes of every matrix
Product = Callable[[Tensor, Tensor, Tensor], Tensor]  # of x (M, K), weight (N, K) and bias (N,)


class Shape(NamedTuple):
    """The device, dtype and sizes of a product x (M, K) W (N, K)^T."""

    device: torch.device
    dtype: torch.dtype
    rows: int
    columns: int
    inner: int

    @classmethod
    def of(cls, x: Tensor, weight: Tensor) -> Shape:
        """Return those of a product."""
        return cls(x.device, x.dtype, len(x), *weight.shape)


choices: dict[Shape, Product | None] = {}  # None for torch's
_torch_only: ContextVar[bool] = ContextVar("omnitok_gelu_linear_torch_only", default=False)


@contextmanager
def use_torch_algorithm() -> Iterator[None]:
    """Make every product in this context by torch's algorithm, and choose none, to measure what the choice gains."""
    token = _torch_only.set(True)
    try:
        yield
    finally:
        _torch_only.reset(token)


def gelu_linear(args: GeluLinearArgs) -> Tensor:
    """Run the product; the library applies GELU where it writes it, on a GPU and without gradients."""
    x, weight, bias = args
    if not x.is_cuda or (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in args)):
        return F.gelu(F.linear(x, weight, bias), approximate="tanh")
    rows = x.flatten(0, -2)
    product: Product = torch_product
    if choices and may_choose() and is_plain(rows, weight, bias):
        product = choices.get(Shape.of(rows, weight)) or torch_product
    return product(rows, weight, bias).view(*x.shape[:-1], -1)


def torch_product(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return gelu(x W^T + b) by the first algorithm of the library's heuristic."""
    return torch._addmm_activation(bias, x, weight.t(), use_gelu=True)


def may_choose() -> bool:
    """Return whether another algorithm than torch's may run here."""
    return not torch.compiler.is_compiling() and not _torch_only.get()


def is_plain(*tensors: Tensor) -> bool:
    """Return whether tensors are such as the library's heuristic assumes."""
    return all(tensor.is_contiguous() and tensor.data_ptr() % ALIGNMENT_BYTES == 0 for tensor in tensors)


TORCH = Implementation(gelu_linear)
