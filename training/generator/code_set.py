"""Codes to train on, in memory."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from media.kinds import Kind
from model.codes.info import CodesInfo
from training.errors import TrainingError


@dataclass(frozen=True)
class ExtractionOptions:
    """The pixels that are encoded.

    Args:
        side: pixels of the squares.
        frames: of a clip.
        flips: encode the mirror image of every item too.
        views: crops, and windows in time, of each item that is larger or longer; the first one is the middle, from
            the start, and the others are drawn at random.
        fps: frames per second of clips cut from videos; as recorded if None.
        seed: of the views.
    """

    side: int
    frames: int = 17
    flips: bool = True
    views: int = 1
    fps: float | None = None
    seed: int = 0


@dataclass(frozen=True)
class Codes:
    """The rows of one kind.

    Args:
        codes: integer tokens (N, t, h, w), or float16 latents (N, t, h, w, c).
        labels: int64 (N), class of each row; -1 where it has none.
        items: int64 (N), number of the source item of each row; its views and mirror images share it.
    """

    codes: Tensor
    labels: Tensor
    items: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class CodeSet:
    """The codes of a data set, of squares.

    Args:
        info: what they are.
        kinds: rows of each kind that there is, on the CPU.
    """

    info: CodesInfo
    kinds: dict[Kind, Codes]


def relabelled(codes: CodeSet, classes: tuple[str, ...]) -> CodeSet:
    """Return the rows of known classes, with labels that count over these.

    Raises:
        TrainingError: no row is left.
    """
    if codes.info.classes == classes:
        return codes
    number = torch.tensor([classes.index(name) if name in classes else -1 for name in codes.info.classes] or [-1])
    kinds = {}
    for kind, rows in codes.kinds.items():
        labels = number[rows.labels]
        known = labels >= 0
        if known.any():
            kinds[kind] = Codes(rows.codes[known], labels[known], rows.items[known])
    if not kinds:
        raise TrainingError(
            f"The codes have the classes {', '.join(codes.info.classes) or 'none'}, and none of {', '.join(classes)}."
        )
    return CodeSet(replace(codes.info, classes=classes), kinds)
