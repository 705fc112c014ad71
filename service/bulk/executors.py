"""The tokenizers of a run as its job sees them, and the CPUs of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from model.codes.info import CodesInfo
from service.bulk.encoder import Report, Workplace
from service.bulk.plan import Shard


class Executor(Protocol):
    """The tokenizers of a run.

    Attributes:
        tokenizers: number of them.
        workplace: of each.
    """

    tokenizers: int
    workplace: Workplace

    def run(
        self, bundle: Path, dest: Path, info: CodesInfo, shards: Sequence[Shard], report: Callable[[Report], None]
    ) -> None:
        """Encode shards.

        Args:
            bundle, dest: folders that every tokenizer sees.
            info: of the data set.
            shards: to encode.
            report: called for each that is done.

        Raises:
            BulkError: a tokenizer failed for another reason than an item.
        """
        ...


def workplace_of(device: str, dtype: str | None, cpus: int) -> Workplace:
    """Return the place of one tokenizer: a GPU leaves all CPUs but one to reading; on a CPU both share.

    Args:
        device: "cuda" or "cpu".
        dtype: precision; None for bfloat16 on a GPU and float32 elsewhere.
        cpus: of the tokenizer.
    """
    if device == "cuda":
        return Workplace(device, dtype or "bfloat16", 1, max(1, cpus - 1))
    return Workplace(device, dtype or "float32", cpus, max(1, cpus // 2))
