"""Published checkpoints are pickles: read their tensors and plain values, and run nothing that they hold."""

from __future__ import annotations

import argparse
import re
import warnings
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

ZIP, PICKLE = b"PK\x03\x04", b"\x80"  # the first bytes of what torch.save writes, now and formerly


class CheckpointError(ValueError):
    """A file that is not a readable checkpoint, in one sentence."""


class _RefusedError(Exception):
    """A checkpoint that would do more than hold values."""


class _Namespace(argparse.Namespace):
    """A namespace that a pickle can fill with plain attributes only."""

    def __setstate__(self, state: object) -> None:
        if type(state) is not dict or not all(type(key) is str and not key.startswith("__") for key in state):
            raise _RefusedError("The checkpoint would change an argparse.Namespace on load.")
        vars(self).update(state)


# Lightning saves hyper-parameters as a dictionary of its own class, which has moved between its packages.
_ATTRIBUTE_DICTS = (
    "lightning_fabric.utilities.data.AttributeDict",
    "lightning.fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict",
)
_PLAIN = {"argparse.Namespace": _Namespace, **dict.fromkeys(_ATTRIBUTE_DICTS, dict)}


def _inert(path: str) -> type:
    """Make a class that a pickle may name but not use: trainers store callback classes as dictionary keys."""

    def refuse(cls: type, *args: object) -> NoReturn:
        raise _RefusedError(f"The checkpoint would call {path} on load.")

    module, _, name = path.rpartition(".")
    return type(name, (), {"__module__": module, "__new__": refuse})


def _refuse_downloads(path: Path, head: bytes) -> None:
    """Refuse the files that a download leaves in place of a checkpoint."""
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        raise CheckpointError(f"{path} is a Git LFS pointer, not the file; run `git lfs pull`.")
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(b"<") and (b"<!doctype html" in text or b"<html" in text):
        raise CheckpointError(f"{path} is a web page, not a checkpoint; download the file itself.")


def _reason(error: Exception) -> str:
    """Return the clause of torch's error that names the fault; the rest advises to switch the protection off."""
    text = str(error).rsplit("WeightsUnpickler error: ", 1)[-1].strip()
    return re.split(r"\n|\. ", text, maxsplit=1)[0] or type(error).__name__


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
        raise CheckpointError(f"{path}: there is no such file.")
    with path.open("rb") as file:
        head = file.read(1024)
    _refuse_downloads(path, head)
    stand_ins = dict(_PLAIN)
    try:
        if head.startswith(ZIP):  # torch lists the names of no other archive
            named = get_unsafe_globals_in_checkpoint(path)
            stand_ins |= {name: _inert(name) for name in named if name not in _PLAIN}
        with safe_globals([(stand_in, name) for name, stand_in in stand_ins.items()]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols: what cannot be read is refused below
            data = torch.load(path, map_location="cpu", weights_only=True)
    except _RefusedError as error:
        raise CheckpointError(f"{path}: refused: {error}") from error
    except Exception as error:  # the readers of both formats raise almost anything on a damaged or hostile file
        if foreign := re.search(r"GLOBAL (\S+) ", str(error)):
            raise CheckpointError(f"{path}: refused: The checkpoint would load {foreign[1]}.") from error
        if not head.startswith((ZIP, PICKLE)) and head[257:262] != b"ustar":  # torch names the old form, a tar
            raise CheckpointError(f"{path} is not a checkpoint of PyTorch.") from error
        raise CheckpointError(f"{path} is not a whole checkpoint written by torch.save: {_reason(error)}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} holds a {type(data).__name__}, not a checkpoint's dictionary.")
    return data
