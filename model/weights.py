"""Weights into a network, checked before any memory is taken for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Network = TypeVar("Network", bound=nn.Module)


class WeightsError(ValueError):
    """Tensors that are not those of a config."""


class _NoInitialisation(TorchFunctionMode):
    """A mode that leaves memory as it is where a constructor would draw weights, which are about to be replaced.

    On the meta device, to draw or to normalise them would load all of torch's compiler first.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init" or func is F.normalize:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def build_network(make: Callable[[], Network], weights: Mapping[str, Tensor]) -> Network:
    """Build a network with these weights, in float32 and evaluation mode.

    Args:
        make: returns the network with any weights.
        weights: tensors by the names of its `state_dict()`.

    Raises:
        WeightsError: names are missing or left over, or a shape or type does not fit; all of them are listed.
    """
    with _NoInitialisation(), torch.device("meta"):  # shapes alone: a config may describe more than this machine holds
        wanted = {name: value.shape for name, value in make().state_dict().items()}
    if missing := sorted(wanted.keys() - weights.keys()):
        raise WeightsError(f"{len(missing)} tensors are missing: {', '.join(missing)}")
    if extra := sorted(weights.keys() - wanted.keys()):
        raise WeightsError(
            f"{len(extra)} tensors belong to layers that the config does not describe: {', '.join(extra)}"
        )
    wrong = [
        f"{name} is {weights[name].dtype} {tuple(weights[name].shape)}, not {tuple(shape)}"
        for name, shape in wanted.items()
        if weights[name].shape != shape or not weights[name].is_floating_point()
    ]
    if wrong:
        raise WeightsError(f"{len(wrong)} tensors do not fit the config: {'; '.join(wrong)}")
    if broken := [name for name, value in weights.items() if not value.isfinite().all()]:
        raise WeightsError(f"{len(broken)} tensors hold infinities or NaN: {', '.join(broken)}")
    with _NoInitialisation():
        network = make()
    network.load_state_dict(dict(weights))
    return network.eval().requires_grad_(False)
