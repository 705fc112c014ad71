"""The loader of codes: batches that follow from the seed and the numbers of their items."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from media.kinds import Kind
from training.data.loaders.batch import BatchSpec
from training.data.loaders.device_loader import free_memory
from training.data.loaders.item_rng import epoch_order
from training.distributed import Ranks
from training.errors import TrainingError
from training.generator.code_set import CodeSet


class CodeBatch(NamedTuple):
    """A batch of codes.

    Args:
        codes: int64 tokens (n, t, h, w), or float32 latents (n, t, h, w, c).
        labels: int64 (n), class of each item.
    """

    codes: Tensor
    labels: Tensor


class CodeLoader:
    """Batches of codes that fit in the device's memory: every epoch takes every row once, in an order of its own.

    Images are the rows of pictures and, where the tokenizer is causal, the first latent frames of clips. Data without
    classes are of class 0.

    Args:
        codes: the opened codes.
        device: where they are kept and batches are made.
        seed: of the order.
        ranks: the processes that share every batch.

    Raises:
        TrainingError: the codes do not fit in the device's memory.
    """

    def __init__(self, codes: CodeSet, device: torch.device, seed: int, ranks: Ranks | None = None) -> None:
        self.info, self.seed, self.ranks = codes.info, seed, ranks or Ranks()
        needed = sum(rows.codes.nbytes for rows in codes.kinds.values())
        free = free_memory(device)
        if free is not None and needed > free:
            raise TrainingError(
                f"The codes take {needed / 2**30:.2f} GiB and {device} has {free / 2**30:.2f} GiB free: extract fewer."
            )
        self._rows: dict[Kind, list[tuple[Tensor, Tensor]]] = {
            kind: [(rows.codes.to(device), rows.labels.to(device).clamp(min=0))] for kind, rows in codes.kinds.items()
        }
        if codes.info.causal and "clips" in self._rows:
            clips, labels = self._rows["clips"][0]
            self._rows.setdefault("images", []).append((clips[:, :1], labels))

    def check(self, spec: BatchSpec) -> None:
        """Refuse a batch of a kind or size that was not extracted, as `Loader.check` does."""
        spec.share(self.ranks.rank, self.ranks.world)
        if spec.kind not in self._rows:
            raise TrainingError(f"The codes hold no {spec.kind}, only {' and '.join(self._rows)}.")
        options = self.info.options
        frames = options.frames if spec.kind == "clips" else 1
        if (spec.side, spec.frames) != (options.height, frames):
            raise TrainingError(
                f"The codes are of {frames} frames of {options.height} pixels, not {spec.frames} of {spec.side}: "
                "extract these, or change the recipe."
            )

    def labels(self, kind: Kind) -> list[int]:
        """Return the classes that items of a kind have, in ascending order."""
        return torch.cat([labels for _, labels in self._rows[kind]]).unique().tolist()

    def stream(self, specs: Iterable[BatchSpec]) -> Iterator[CodeBatch]:
        """Yield this rank's share of each batch, as `Loader.stream` does."""
        for spec in specs:
            self.check(spec)
            yield self._batch(spec)

    def close(self) -> None:
        """Do nothing, for nothing works in the background."""

    def report(self) -> dict[str, Any]:
        """Return the number of rows of each kind."""
        return {kind: sum(len(labels) for _, labels in parts) for kind, parts in self._rows.items()}

    def describe(self) -> list[str]:
        """Return the number of rows of each kind in a line."""
        return ["data: codes of " + " and ".join(f"{rows:,} {kind}" for kind, rows in self.report().items())]

    def _batch(self, spec: BatchSpec) -> CodeBatch:
        share = spec.share(self.ranks.rank, self.ranks.world)
        parts = self._rows[spec.kind]
        chosen = torch.from_numpy(epoch_order(self.seed, spec.kind, sum(len(labels) for _, labels in parts), share))
        places, codes, labels = [], [], []
        first = 0
        for rows, own in parts:
            inside = ((chosen >= first) & (chosen < first + len(own))).nonzero().flatten()
            index = (chosen[inside] - first).to(rows.device)
            places.append(inside)
            codes.append(rows[index])
            labels.append(own[index])
            first += len(own)
        order = torch.cat(places).argsort().to(codes[0].device)
        whole = torch.cat(codes)[order]
        return CodeBatch(whole.float() if whole.is_floating_point() else whole.long(), torch.cat(labels)[order])
