"""The work of one tokenizer: shards of items to shards of codes. Ray Data holds one for each GPU or CPU node."""

from __future__ import annotations

import gc
import os
import socket
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from itertools import count, product
from pathlib import Path
from typing import Any

import numpy as np

from media.kinds import Kind
from model.codes.info import CodesInfo
from model.codes.rows import Rows
from model.codes.writer import done_record, failed_record, write_manifest, write_shard
from service.bulk.batches import (
    IN_FLIGHT,
    UNDECODED,
    Batches,
    Pixels,
    Row,
    SharedEngine,
    chunks_held,
    frames_of,
    pixels_of,
)
from service.bulk.decoder import ALIGNMENT, TOO_LARGE, Failed
from service.bulk.decoder_pool import Chunk, DecoderPool
from service.bulk.errors import BulkError
from service.bulk.executors import Report, Workplace, shards_at_once
from service.bulk.plan import Shard, record_of
from service.bulk.reading import JPEG_ENLARGEMENT
from service.bulk.whole_videos import encode_whole_video
from service.engine.jpegs import JpegDecoder, NoJpegEnginesError
from service.engine.nvjpeg import NvJpeg
from service.engine.step_clock import busy_seconds
from service.engine.tokenizer import Engine
from service.types import Size

# Of one visit to a process, 20 to 40 ms: in longer ones the last items of a shard leave most readers idle.
CHUNK_ITEMS: dict[Kind, int] = {"images": 16, "clips": 2}
CHUNK_BYTES = 16 * 2**20
UNSIZED_BYTES = 2**20  # of a picture of its own size; larger ones travel in the answer
BATCH_POSITIONS = {"cuda": 2**16, "cpu": 2**13}
MAX_BATCH = 64
# A process that decodes JPEGs on its GPU waits for Python's lock: larger batches and chunks take fewer calls.
JPEG_BATCH, JPEG_CHUNK_ITEMS = 128, 32
BUSY_SECONDS = 1.0  # in less, a batch more or less would be all that there is to see


class ShardEncoder:
    """An encoder of shards in any order; several threads may call it.

    Args:
        bundle: folder of the tokenizer.
        dest: of the data set.
        info: of the data set.
        workplace: of this tokenizer.

    Raises:
        BulkError: the device does not decode JPEGs, and the options want it.

    Attributes:
        engine: shared by the threads.
        leave_jpegs: the device decodes JPEGs.
        shards_at_once: number of threads that keep it busy.
    """

    def __init__(self, bundle: Path, dest: Path, info: CodesInfo, workplace: Workplace) -> None:
        self._dest, self._info, self._options = dest, info, info.options
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        engine = Engine([bundle], workplace.device, workplace.dtype, workplace.threads)
        self.engine = SharedEngine(engine, info.kind)
        self._device = workplace.device
        self.leave_jpegs = self._options.jpeg == "gpu" and "images" in info.items
        sizes = [size for kind in info.items if (size := self._size(kind)) is not None]
        if workplace.device == "cuda":
            most = max(map(self._batch_of, sizes), default=1)
            positions = max(map(self._batch_positions, sizes), default=BATCH_POSITIONS["cuda"])
            engine.warm_up(sizes, positions, most)
        sized = self._options.height is not None
        engine.clock.running = True  # not before: warm-up does not belong to the run
        self._leave_resize = workplace.device_resize and sized and engine.resizes_pictures()
        self._rare_sizes = {kind for kind in info.items if self._size(kind) is None or self._is_left(kind)}
        self._chunks = {kind: self._chunk_items(kind) for kind in info.items}
        chunk_bytes = max(chunk * self._item_bytes(kind) for kind, chunk in self._chunks.items())
        batch_chunks = max(-(-self._batch_of(size) // self._chunks[kind]) for kind, size in self._kinds_with_size())
        self._ahead = 2 * workplace.readers + 1
        self._max_chunks = 2 * batch_chunks
        self.shards_at_once = shards_at_once(self._options)
        # With fewer, all could be kept by rows that wait for a batch, and no chunk would ever be read again.
        slots = self.shards_at_once * (chunks_held(self._max_chunks) + self._ahead)
        self._pool = DecoderPool(workplace.readers, self._options, slots, chunk_bytes, self._leave_resize)
        if self.leave_jpegs:
            self.engine.jpegs = self._jpeg_decoder()
        self._orders = count()
        self._ready = time.perf_counter()
        self._reported = self._ready, 0.0
        self._busy_share: float | None = None
        # Or the collector would look at all objects of torch and Ray now and then, and stop every thread for so long.
        gc.freeze()

    def batch_of(self, pixels: Pixels) -> int:
        """Return the most items of a batch of such pixels."""
        return self._batch_of(frames_of(pixels))

    def reader_seconds(self) -> float:
        """Return the CPU time of the processes that read, so far."""
        return self._pool.cpu_seconds()

    def close(self) -> None:
        """End the processes."""
        self._pool.close()

    def encode(self, shard: Shard) -> Report:
        """Encode and write a shard, its manifest last."""
        whole = shard.kind == "clips" and self._options.frames is None
        rows, records = self._whole_videos(shard) if whole else self._items(shard, self.leave_jpegs)
        items = range(shard.first, shard.first + len(shard.items))
        write_shard(self._dest, self._info, shard.name, items, rows)
        write_manifest(self._dest, shard.name, records)
        failed = sum(record["status"] == "failed" for record in records)
        seconds = time.perf_counter() - self._ready
        return Report(shard.name, len(records), failed, len(rows), self._busy(), self._name, seconds)

    def _jpeg_decoder(self) -> JpegDecoder:
        """Return what decodes JPEGs on the device."""
        size = self._size("images")
        if not self._leave_resize or size is None:
            raise BulkError("JPEGs are decoded where pictures are resized, not on this device. Use --jpeg cpu.")
        batch_bytes = self._batch_of(size) * JPEG_ENLARGEMENT * 3 * int(np.prod(size))
        try:
            return JpegDecoder(self.shards_at_once * IN_FLIGHT, batch_bytes, self._device, NvJpeg)
        except NoJpegEnginesError as error:
            raise BulkError(str(error)) from error

    def _items(self, shard: Shard, leave_jpegs: bool) -> tuple[Rows, list[dict[str, Any]]]:
        """Read, encode and describe the items of a shard; `leave_jpegs` as of `read_views`."""
        records = [record_of(shard, place) for place in range(len(shard.items))]
        rows, flips = Rows(), (False, True) if self._options.flips else (False,)
        undecoded: list[int] = []

        def take(row: int, codes: Any) -> None:
            if codes is UNDECODED:
                undecoded.append(row)
            elif codes is not None:
                rows.codes[row] = np.ascontiguousarray(codes)

        batches = Batches(self.engine, self._batch_of, self._max_chunks, take)
        for number, (first, chunk) in enumerate(self.read(shard, leave_jpegs)):
            waiting: list[Row] = []
            holder = _Holder(chunk.release)
            for place, read in enumerate(chunk.items, first):
                if isinstance(read, Failed):
                    records[place] |= failed_record(*read)
                    continue
                records[place]["source_hash"] = read.digest
                item = shard.items[place]
                for (crop, view), flip in product(enumerate(read.views), flips):
                    pixels = pixels_of(view, flip)
                    if isinstance(pixels, np.ndarray) and shard.kind in self._rare_sizes:
                        waiting.append(Row(len(rows), pixels.copy(), None, lambda: None))
                    else:
                        holder.hold()
                        waiting.append(Row(len(rows), pixels, number, holder.free))
                    rows.append(
                        None, shard.first + place, item.key, item.label, crop, flip, read.digest, view.preprocess
                    )
            holder.free()
            batches.add(waiting, number)
        batches.finish()
        if undecoded:  # readers show what there is, or say why they cannot
            return self._items(shard, leave_jpegs=False)
        too_large = {number for number, codes in zip(rows.items, rows.codes, strict=True) if codes is None}
        for number in too_large:
            records[number - shard.first] |= failed_record(TOO_LARGE, retry=True)
        if too_large:
            rows = rows.without(too_large)
        done = (record for record in records if "status" not in record)
        for record, codes in zip(done, rows.codes[:: self._options.repeats], strict=True):
            record |= done_record(self._options.repeats, codes)
        return rows, records

    def read(self, shard: Shard, leave_jpegs: bool = False) -> Iterator[tuple[int, Chunk]]:
        """Yield chunks of items in their order, with the place of the first; the next ones are read meanwhile.

        Shards that were begun earlier are read first, so that they do not all end, and leave readers idle, at a time.

        Args:
            shard: to read.
            leave_jpegs: as of `read_views`.
        """
        size, order = self._chunks[shard.kind], next(self._orders)
        firsts = iter(range(0, len(shard.items), size))
        reading: deque[tuple[int, Future[Chunk]]] = deque()
        while True:
            while len(reading) < self._ahead and (first := next(firsts, None)) is not None:
                items = shard.items[first : first + size]
                reading.append((first, self._pool.submit(items, shard.kind, order, leave_jpegs)))
            if not reading:
                return
            first, future = reading.popleft()
            yield first, future.result()

    def _whole_videos(self, shard: Shard) -> tuple[Rows, list[dict[str, Any]]]:
        """Encode clips as long as they are, part by part."""
        rows, records = Rows(), [record_of(shard, place) for place in range(len(shard.items))]
        process = self._pool.start_process()
        try:
            for place, item in enumerate(shard.items):
                if not process.alive:
                    process = self._pool.start_process()
                video = encode_whole_video(self.engine, process, self._pool.memory, item)
                if isinstance(video, Failed):
                    records[place] |= failed_record(*video)
                    continue
                number = shard.first + place
                rows.append(video.codes, number, item.key, item.label, 0, False, video.digest, video.preprocess)
                records[place] |= {"source_hash": video.digest} | done_record(1, video.codes)
        finally:
            process.close()
        return rows, records

    def _kinds_with_size(self) -> list[tuple[Kind, Size]]:
        return [(kind, self._size(kind) or (1, 256, 256)) for kind in self._info.items]

    def _size(self, kind: Kind) -> Size | None:
        """Return the size of all items of a kind, or None if each has its own."""
        options = self._options
        frames = 1 if kind == "images" else options.frames
        if options.height is None or options.width is None or frames is None:
            return None
        return frames, options.height, options.width

    def _is_left(self, kind: Kind) -> bool:
        """Return whether items of a kind keep the size of their files until the device resizes them."""
        return self._leave_resize and kind == "images"

    def _batch_of(self, size: Size) -> int:
        """Return the most items of a batch, a power of two: the device has a graph for each."""
        most = self._batch_positions(size) // self.engine.card.geometry.positions(size)
        return min(JPEG_BATCH if self._are_jpegs(size) else MAX_BATCH, 1 << max(0, most.bit_length() - 1))

    def _batch_positions(self, size: Size) -> int:
        return BATCH_POSITIONS[self._device] * (JPEG_BATCH // MAX_BATCH if self._are_jpegs(size) else 1)

    def _are_jpegs(self, size: Size) -> bool:
        return self.leave_jpegs and size[0] == 1

    def _item_bytes(self, kind: Kind) -> int:
        size, views = self._size(kind), self._options.views
        if size is None or self._is_left(kind):
            return UNSIZED_BYTES * views * CHUNK_ITEMS[kind] // self._most_items(kind)
        return (3 * int(np.prod(size)) + ALIGNMENT) * views

    def _chunk_items(self, kind: Kind) -> int:
        return max(1, min(self._most_items(kind), CHUNK_BYTES // self._item_bytes(kind)))

    def _most_items(self, kind: Kind) -> int:
        return JPEG_CHUNK_ITEMS if self.leave_jpegs and kind == "images" else CHUNK_ITEMS[kind]

    def _busy(self) -> float:
        busy = busy_seconds(self.engine.engine.clock.totals())
        now, (then, before) = time.perf_counter(), self._reported
        if self._busy_share is None or now - then >= BUSY_SECONDS:
            self._reported, self._busy_share = (now, busy), min(1.0, (busy - before) / max(now - then, 1e-9))
        return self._busy_share


class _Holder:
    """The rows that still read the pixels of a chunk.

    Args:
        release: called when there are none, and `free` was called for the chunk itself.
    """

    def __init__(self, release: Any) -> None:
        self._release, self._held = release, 1

    def hold(self) -> None:
        """Count a reader."""
        self._held += 1

    def free(self) -> None:
        """Count a reader that is done."""
        self._held -= 1
        if not self._held:
            self._release()
