"""Small pictures and clips, and a tokenizer in this process."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from media.write import encode_video
from model.codes.info import CodesInfo, EncodingOptions
from service.bulk.encoder import ShardEncoder
from service.bulk.executors import SHARDS_AT_ONCE, Report, Workplace
from service.bulk.job import Outcome
from service.bulk.plan import Shard

Tokenize = Callable[..., Outcome]
SQUARES = EncodingOptions(32, 32, frames=5)


class LocalExecutor:
    """One tokenizer in this process.

    Args:
        workplace: of the tokenizer.
    """

    tokenizers = 1

    def __init__(self, workplace: Workplace) -> None:
        self.workplace = workplace

    def run(
        self, bundle: Path, dest: Path, info: CodesInfo, shards: Sequence[Shard], report: Callable[[Report], None]
    ) -> None:
        encoder = ShardEncoder(bundle, dest, info, self.workplace)
        with ThreadPoolExecutor(SHARDS_AT_ONCE) as threads:
            try:
                for done in as_completed([threads.submit(encoder.encode, shard) for shard in shards]):
                    report(done.result())
            finally:
                threads.shutdown(cancel_futures=True)
                encoder.close()


EXECUTOR = LocalExecutor(Workplace("cpu", "float32", 1, 1))


def photo(seed: int, height: int = 48, width: int = 64) -> bytes:
    """A noisy JPEG."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((width, height)).save(file, "JPEG", quality=90)
    return file.getvalue()


def clip(seed: int, frames: int) -> bytes:
    """A noisy clip of 40x56 pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (frames, 5, 7, 3), np.uint8)
    return encode_video(pixels.repeat(8, 1).repeat(8, 2), "video/mp4", 25.0)


def content(dest: Path) -> dict[str, bytes]:
    """The bytes of every file of a data set."""
    files = (path for path in dest.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(dest)): path.read_bytes() for path in files}


class Stopping:
    """An executor that is killed after some shards, in the middle of writing the next one."""

    def __init__(self, shards: int) -> None:
        self.workplace, self.tokenizers, self._shards = EXECUTOR.workplace, 1, shards

    def run(self, bundle: Path, dest: Path, info: Any, shards: Sequence[Any], report: Any) -> None:
        EXECUTOR.run(bundle, dest, info, shards[: self._shards], report)
        (dest / f".99.{shards[self._shards].name}.tar").write_bytes(b"half")
        raise KeyboardInterrupt
