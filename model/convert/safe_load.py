"""Published checkpoints are pickles: read their tensors and plain values, and run nothing that they hold."""

from __future__ import annotations

import argparse
import collections
import pickle
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, NoReturn

import torch

# The interpreter of pickles that is written in Python: its opcodes can be replaced, those of the compiled one cannot.
_PythonUnpickler: Any = pickle._Unpickler


class CheckpointError(ValueError):
    """A file that is not a readable checkpoint, in one sentence."""


class _Inert(type):
    """A class that a pickle may name but not use: trainers store callback classes as dictionary keys."""

    def __call__(cls, *args: object, **kwargs: object) -> NoReturn:
        raise CheckpointError(f"refused: the checkpoint would call {cls.__module__}.{cls.__qualname__} on load")

    def __new__(mcs, module: str, name: str) -> _Inert:
        return super().__new__(mcs, name, (), {"__module__": module, "__new__": mcs._refuse})

    def __init__(cls, module: str, name: str) -> None:
        super().__init__(name, (), {})

    @staticmethod
    def _refuse(cls: type, *args: object) -> NoReturn:
        raise CheckpointError(f"refused: the checkpoint would make a {cls.__module__}.{cls.__qualname__} on load")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("argparse", "Namespace"): argparse.Namespace,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
    ("torch", "Size"): torch.Size,
    ("torch", "device"): torch.device,
}
_STORAGES = ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
_ALLOWED |= {("torch", f"{kind}Storage"): getattr(torch, f"{kind}Storage") for kind in _STORAGES}


_BUILDABLE = (argparse.Namespace, collections.OrderedDict)  # state dicts carry versions as attributes


class _Unpickler(_PythonUnpickler):
    """Resolves the names above; every other name becomes an inert class."""

    dispatch: ClassVar[dict[int, Any]] = dict(_PythonUnpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        return _ALLOWED.get((module, name)) or _Inert(module, name)

    def _build(self) -> None:
        """Set plain attributes of a namespace or a state dict; a class, a function or anything else stays as it is."""
        state = self.stack.pop()
        target = self.stack[-1]
        plain = type(state) is dict and all(type(key) is str and not key.startswith("__") for key in state)
        if type(target) not in _BUILDABLE or not plain:
            raise CheckpointError(f"refused: the checkpoint would change a {type(target).__name__} on load")
        vars(target).update(state)

    dispatch[pickle.BUILD[0]] = _build


def _load(file: Any, **kwargs: Any) -> Any:
    return _Unpickler(file, **kwargs).load()


def _refuse_programs(path: Path) -> None:
    """Refuse what torch.load would read by other code than the unpickler above: scripted modules and tar archives."""
    with path.open("rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"
    if zipped:
        if "constants.pkl" in torch._C.PyTorchFileReader(str(path)).get_all_records():
            raise CheckpointError("refused: it is a scripted module, which is a program and no checkpoint")
    elif tarfile.is_tarfile(path):
        raise CheckpointError("refused: it is a tar archive, which no released model is")


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint file written by torch.save, on the CPU.

    Args:
        path: the file.

    Returns:
        Its dictionary: tensors, numbers, strings, containers and argparse namespaces.

    Raises:
        CheckpointError: the file is missing, truncated, of another kind, or would run code.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file")
    # torch.load asks this stand-in for the pickle module to do all unpickling, in its zip and its older format alike.
    restricted = SimpleNamespace(Unpickler=_Unpickler, load=_load, __name__="restricted_pickle")
    try:
        _refuse_programs(path)
        data = torch.load(path, map_location="cpu", weights_only=False, pickle_module=restricted)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except Exception as error:  # the readers of both formats raise almost anything on a damaged file
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{path} is not a whole checkpoint written by torch.save: {reason}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} holds a {type(data).__name__}, not a checkpoint's dictionary")
    return data
