"""A mode that finds what makes a CPU wait for its GPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode


class NoQuestions(TorchDispatchMode):
    """Refuses operations whose answer a CPU must wait for, or whose result has a size that depends on the values."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "bincount", "equal.default", "is_nonzero")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        if any(f"aten.{waiting}" in name or f"aten._{waiting}" in name for waiting in self.WAITING):
            raise AssertionError(f"{name} waits for the device")
        if "aten.index" in name and any(
            isinstance(x, Tensor) and x.dtype == torch.bool for x in pytree.tree_leaves(args[1:2])
        ):
            raise AssertionError(f"{name} by a mask waits for the device")
        return func(*args, **(kwargs or {}))
