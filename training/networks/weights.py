"""Weights of pretrained networks: files that a user names, checked against the network key by key."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import TypeVar
from zipfile import BadZipFile

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from training.errors import TrainingError, one_line

MAX_KEYS_SHOWN = 4
Network = TypeVar("Network", bound=nn.Module)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a weights file by name, on the CPU.

    Args:
        path: `.safetensors`, or a PyTorch file of tensors only (`.pth`, `.pt`); no code in it is run.

    Raises:
        TrainingError: there is no such file, or it is damaged or holds anything but named tensors.
    """
    if not path.is_file():
        raise TrainingError(f"There is no weights file {path}.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, BadZipFile, RuntimeError, OSError, EOFError, ValueError) as error:
        raise TrainingError(f"{path} is not a file of weights: {one_line(error)}") from error
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        raise TrainingError(f"{path} does not hold a dictionary of named tensors.")
    return dict(state)


def load_weights(network: Network, path: Path) -> Network:
    """Fill a network from a file, as `fill` does.

    Raises:
        TrainingError: the file cannot be read or belongs to another network.
    """
    return fill(network, read_weights(path), path)


def fill(network: Network, state: dict[str, Tensor], path: Path) -> Network:
    """Fill a network with tensors; return it in evaluation mode, in float32, without gradients.

    Every key must be there, none may be left over, and every shape must fit. Batch counters of normalisation layers are
    not weights: they are ignored where a file has them.

    Args:
        network: whose `state_dict` names the keys.
        state: the tensors by name.
        path: where they were read, for refusals.

    Raises:
        TrainingError: the tensors belong to another network.
    """
    given, wanted = (
        {name: value for name, value in tensors.items() if not name.endswith("num_batches_tracked")}
        for tensors in (state, network.state_dict())
    )
    kind = type(network).__name__
    if missing := sorted(wanted.keys() - given.keys()):
        raise TrainingError(f"{path} holds no weights of {kind}: it lacks {_some(missing)}.")
    if unknown := sorted(given.keys() - wanted.keys()):
        raise TrainingError(f"{path} holds weights that {kind} has not: {_some(unknown)}")
    for name, value in wanted.items():
        if given[name].shape != value.shape:
            raise TrainingError(
                f"{path}: {name} has shape {tuple(given[name].shape)}, {kind} has {tuple(value.shape)}."
            )
        if not given[name].isfinite().all():
            raise TrainingError(f"{path}: {name} holds values that are not finite.")
    network.load_state_dict({name: value.float() for name, value in given.items()}, strict=False)
    return network.float().eval().requires_grad_(False)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - MAX_KEYS_SHOWN} more" if len(names) > MAX_KEYS_SHOWN else ""
    return ", ".join(names[:MAX_KEYS_SHOWN]) + more
