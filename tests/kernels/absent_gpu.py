"""Tensors on an absent GPU, to test the choice of an implementation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch

from kernels.runtime.dispatch import Operator


class _OnGpu(torch.Tensor):
    is_cuda = True
    device = torch.device("cuda", 0)


def on_gpu(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """Return a tensor that claims to be on a GPU."""
    return torch.zeros(shape, dtype=dtype).as_subclass(_OnGpu)


@contextmanager
def capability(major: int, minor: int) -> Iterator[None]:
    """Give the absent GPU a compute capability."""
    with mock.patch("torch.cuda.get_device_capability", return_value=(major, minor)):
        yield


def refusal(operator: Operator, *args: Any, **kwargs: Any) -> str | None:
    """Return why `auto` would not run this call on the Triton kernels, or None."""
    return operator.explain(*args, **kwargs).refused.get("triton")
