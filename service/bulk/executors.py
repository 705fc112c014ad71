"""The tokenizers of a run as its job sees them, and the CPUs of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from model.codes.info import CodesInfo, EncodingOptions
from service.bulk.plan import Shard

SHARDS_AT_ONCE = 3  # of a tokenizer: its device has work while the last rows of a shard are read and written
JPEG_SHARDS_AT_ONCE = 4  # half of them wait for their JPEGs


@dataclass(frozen=True)
class Workplace:
    """The device of a tokenizer, and what feeds it.

    Args:
        device: "cuda" or "cpu".
        dtype: precision of the networks.
        threads: CPU threads of the networks.
        readers: processes that read items.
        device_resize: pictures are resized on a GPU, which gives the same pixels; else where they are read.
    """

    device: str
    dtype: str
    threads: int
    readers: int
    device_resize: bool = True


@dataclass(frozen=True)
class Report:
    """A shard that is done.

    Args:
        name: of the shard.
        items, failed, rows: counts.
        busy: share of the last second or so in which the device computed.
        worker: the process that did it, with its node.
        seconds: since that process was ready to encode.
    """

    name: str
    items: int
    failed: int
    rows: int
    busy: float
    worker: str
    seconds: float


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
            BulkError: a tokenizer could not be made, or failed for another reason than an item.
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


def shards_at_once(options: EncodingOptions) -> int:
    """Return how many shards a tokenizer encodes at a time."""
    return JPEG_SHARDS_AT_ONCE if options.jpeg == "gpu" else SHARDS_AT_ONCE
