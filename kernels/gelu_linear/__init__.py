"""A product that ends in GELU, for inference; the library's algorithm for it may be chosen by measured time."""

from kernels.gelu_linear import library, reference
from kernels.runtime.dispatch import Operator

gelu_linear = Operator("gelu_linear", reference.GeluLinearArgs, reference.gelu_linear, torch=library.TORCH)

__all__ = ["gelu_linear"]
