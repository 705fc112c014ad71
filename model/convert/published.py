"""Published checkpoints: their parts, and the account of every key in a conversion."""

from __future__ import annotations

import re
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from model.convert.safe_load import CheckpointError, read_checkpoint


class ConversionError(ValueError):
    """A checkpoint that cannot become a bundle, in one sentence."""


@dataclass(frozen=True)
class ConversionReport:
    """The report of a conversion.

    Args:
        path: the bundle's folder.
        config: the network that the file describes.
        hash: content hash of the bundle.
        kept: names of the bundle's tensors by the published keys that they hold.
        dropped: published keys that are not in it, with the reason.
        tokenizer: report of the tokenizer bundle written from the same file, if one was.
    """

    path: Path
    config: Any
    hash: str
    kept: dict[str, str]
    dropped: dict[str, str]
    tokenizer: ConversionReport | None = None


def check_flags(flags: Mapping[str, Any], fixed: Mapping[str, Any]) -> None:
    """Refuse flags that would change the computation.

    Args:
        flags: of the file.
        fixed: the only value that the released models use, which an absent flag has too.

    Raises:
        ConversionError: a flag has another value.
    """
    for name, only in fixed.items():
        if flags.get(name, only) != only:
            raise ConversionError(f"Flag {name}={flags[name]!r} is not supported, only {only!r}.")


def read_published(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint file, of which nothing is executed.

    Raises:
        ConversionError: the file is not a readable checkpoint.
    """
    try:
        return read_checkpoint(path)
    except CheckpointError as error:
        raise ConversionError(str(error)) from error


def args_and_state(checkpoint: Mapping[str, Any]) -> tuple[Namespace, dict[Any, object]] | None:
    """Return the flags and the tensors of a Lightning checkpoint, or None if it lacks either.

    Raises:
        ConversionError: a flag is a tensor, which comparisons would not take.
    """
    hyper = checkpoint.get("hyper_parameters")
    args = hyper.get("args") if isinstance(hyper, dict) else None
    args = args if isinstance(args, Namespace) else None
    state = checkpoint.get("state_dict")
    if args is not None and (wrong := [name for name, value in vars(args).items() if isinstance(value, Tensor)]):
        raise ConversionError(f"Flag {wrong[0]} holds a tensor; flags are plain values.")
    return (args, state) if args is not None and isinstance(state, dict) else None


def sort_keys(
    state: Mapping[Any, object], rename: Callable[[str], str | None], rules: Iterable[tuple[str, str]]
) -> tuple[dict[str, Tensor], dict[str, str], dict[str, str]]:
    """Return the tensors that stay by their published keys, their new names, and the dropped keys with reasons.

    Args:
        state: a published state dictionary.
        rename: returns our name of a key, or None if there is none.
        rules: patterns of keys to drop, with the reason.

    Raises:
        ConversionError: unknown keys, or values that are not tensors.
    """
    rules = list(rules)
    tensors: dict[str, Tensor] = {}
    kept: dict[str, str] = {}
    dropped: dict[str, str] = {}
    unknown: list[str] = []
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ConversionError(f"`state_dict` holds {key!r}: {type(value).__name__}, not tensors by name.")
        reason = next((why for pattern, why in rules if re.fullmatch(pattern, key)), None)
        if reason is not None:
            dropped[key] = reason
        elif (name := rename(key)) is not None:
            tensors[key], kept[key] = value, name
        else:
            unknown.append(key)
    if unknown:
        raise ConversionError(f"{len(unknown)} unknown keys: {', '.join(unknown)}")
    return tensors, kept, dropped


def model_card(name: str, kind: str, config: Mapping[str, Any], dropped: Mapping[str, str]) -> str:
    """Return the model card of a converted checkpoint, Markdown.

    Args:
        name: the file's name.
        kind: of network, in words.
        config: its sizes, JSON-ready.
        dropped: keys that were left out, with the reason.
    """
    rows = "".join(f"- {count} tensors: {reason}\n" for reason, count in sorted(Counter(dropped.values()).items()))
    sizes = "".join(f"- {key}: {value}\n" for key, value in config.items())
    return (
        f"# {name}\n\nConverted from a published OmniTokenizer {kind}, weights unchanged (float32).\n"
        "Licence, training data and metrics are those of the original; the file does not state them.\n"
        f"\n## Geometry\n\n{sizes}\n## Left out\n\n{rows}"
    )
