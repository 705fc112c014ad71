"""Batches of one shard: no order of sizes keeps the memory that the next chunks need."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from bulk_samples import Tokenize, photo
from waiting import SECONDS

from media.resize import Resampling
from model.codes.info import EncodingOptions
from service.bulk.batches import Batches, Row, SharedEngine, chunks_held
from service.engine.pictures import SourcePicture
from service.engine.step_clock import StepClock
from service.engine.tokenizer import Engine

MAX_CHUNKS, CHUNK_ROWS, BATCH = 4, 8, 16


class Numbering:
    """An engine that gives each row the number of its pixels."""

    def launch(self, pixels: Sequence[Any]) -> Callable[[], list[Any]]:
        return lambda: [int((one.pixels if isinstance(one, SourcePicture) else one).ravel()[0]) for one in pixels]


@pytest.mark.parametrize("rare", [0.0, 0.02, 0.1, 0.5, 1.0])
def test_rows_that_wait_keep_few_chunks(rare: float) -> None:
    random = np.random.default_rng(0)
    resampling = Resampling(cast(Any, None), (2, 2))
    held: dict[int, int] = {}
    taken: dict[int, int] = {}

    def free(chunk: int) -> Callable[[], None]:
        def done() -> None:
            held[chunk] -= 1

        return done

    batches = Batches(cast(SharedEngine, Numbering()), lambda size: BATCH, MAX_CHUNKS, taken.__setitem__)
    rows = 0
    for chunk in range(100):
        added = []
        for _ in range(CHUNK_ROWS):
            if random.random() < rare:
                pixels: Any = SourcePicture(np.full((4, 4, 3), rows % 256, np.uint8), resampling)
            else:
                pixels = np.full((1, 2, 2, 3), rows % 256, np.uint8)
            added.append(Row(rows, pixels, chunk, free(chunk)))
            rows += 1
        held[chunk] = len(added)
        batches.add(added, chunk)
        assert sum(map(bool, held.values())) <= chunks_held(MAX_CHUNKS)
    batches.finish()
    assert not any(held.values())
    assert taken == {row: row % 256 for row in range(rows)}


class Copying:
    """An engine on a GPU, whose first launch does not end before the second batch has been staged."""

    cards = (SimpleNamespace(id="model", device="cuda"),)

    def __init__(self) -> None:
        self.clock, self.launching, self.staged = StepClock(on_gpu=False), threading.Event(), threading.Event()

    def stage(self, key: Any, payloads: Sequence[Any]) -> int:
        number = int(payloads[0].ravel()[0])
        if number == 1:
            self.staged.set()
        return number

    def launch(self, key: Any, payloads: Sequence[Any], staged: int) -> Callable[[], list[Any]]:
        if staged == 0:
            self.launching.set()
            assert self.staged.wait(SECONDS)
        return lambda: [(staged, None) for _ in payloads]


def test_a_shard_stages_its_batch_while_another_launches() -> None:
    engine = Copying()
    shared = SharedEngine(cast(Engine, engine), "tokens")
    first, second = (np.full((1, 2, 2, 3), number, np.uint8) for number in range(2))
    with ThreadPoolExecutor(1) as thread:
        launched = thread.submit(shared.launch, [first])
        assert engine.launching.wait(SECONDS)
        assert shared.launch([second])() == [1]
        assert launched.result()() == [0]


def test_pictures_of_as_many_sizes_do_not_stop_a_run(tokenize: Tokenize, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(400):
        (folder / f"{number:03d}.jpg").write_bytes(photo(number, 8 * (1 + number // 20), 8 * (1 + number % 20)))
    assert tokenize(tmp_path / "codes", folder, EncodingOptions()).info.rows == {"images": 400}
