"""Batches of equal shape, of which the device has two at a time."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from service.bulk.reading import View
from service.engine.jpegs import JpegDecoder, SourceJpeg
from service.engine.pictures import SourcePicture
from service.engine.tokenizer import Engine
from service.scheduling.executor import Fetch, OutOfMemory
from service.types import Size, TokenizerKey, Want

IN_FLIGHT = 2
WAITING_BYTES = 2**30  # pixels of sizes that hardly another has would else pile up for a whole shard

UNDECODED = object()  # in the place of the codes of JPEGs that the device does not decode

Pixels = NDArray[np.uint8] | SourcePicture | SourceJpeg


class SharedEngine:
    """An engine that the threads of several shards use.

    Args:
        engine: of one bundle.
        want: tokens or latents.

    Attributes:
        jpegs: decodes on the engine's device; None until it is set.
    """

    def __init__(self, engine: Engine, want: Want) -> None:
        self.engine, self.card, self._want = engine, engine.cards[0], want
        self.jpegs: JpegDecoder | None = None
        self._on_gpu = self.card.device.startswith("cuda")
        self._launching = threading.Lock()

    def launch(self, pixels: Sequence[Pixels]) -> Fetch:
        """Start a batch of pixels (T, H, W, 3) of one shape.

        Returns:
            A call that returns the codes of each item, (t, h, w) or (t, h, w, c), None if it does not fit alone, or
            `UNDECODED`.
        """
        if isinstance(pixels[0], SourceJpeg):
            assert self.jpegs is not None
            with self.engine.clock.on_host("decode"):
                decoded = self.jpegs.decode(cast("Sequence[SourceJpeg]", pixels))
            return self.launch(decoded) if decoded else lambda: [UNDECODED] * len(pixels)
        key = TokenizerKey(self.card.id, "encode", "pixels", frames_of(pixels[0]), self._want)
        try:
            # A copy takes longer than a launch: that of one shard goes on while another shard launches.
            staged = self.engine.stage(key, pixels) if self._on_gpu else None
            with self._launching, self.engine.clock.on_host("launch"):
                results = self.engine.launch(key, pixels, staged)
        except OutOfMemory:
            return lambda: self._halves(pixels)

        def fetch() -> list[Any]:
            try:
                # A CPU computes in this call, one batch with all its threads; a GPU has computed meanwhile.
                if self._on_gpu:
                    rows = results()
                else:
                    with self._launching:
                        rows = results()
            except OutOfMemory:
                return self._halves(pixels)
            return [tokens if self._want == "tokens" else latents.astype(np.float16) for tokens, latents in rows]

        return fetch

    def run_chunk(self, key: TokenizerKey, chunk: Any) -> Any:
        """Run a chunk of a clip."""
        with self._launching:
            return self.engine.run(key, [chunk])[0]

    def _halves(self, pixels: Sequence[Pixels]) -> list[Any]:
        if len(pixels) == 1:
            return [None]
        middle = len(pixels) // 2
        return [*self.launch(pixels[:middle])(), *self.launch(pixels[middle:])()]


class Row(NamedTuple):
    """Pixels that wait for the device.

    Args:
        place: of the row in its shard.
        pixels: uint8 RGB (T, H, W, 3), or what becomes such on the device.
        chunk: number of the chunk whose memory they are in; None if they have their own.
        done: called when nobody reads the pixels any more.
    """

    place: int
    pixels: Pixels
    chunk: int | None
    done: Callable[[], None]


class Batches:
    """The batches of one shard, which follow from its rows and chunks alone: a run that is resumed makes the same.

    Args:
        engine: shared with other shards.
        batch_of: most items of a batch, by their size.
        max_chunks: rows wait for at most as many chunks to come, then their batch is launched as it is. Rows of
            `chunks_held(max_chunks)` chunks at most are not done while the next chunk is awaited.
        take: called with the place of each row and what `SharedEngine.launch` gives for it.
    """

    def __init__(
        self,
        engine: SharedEngine,
        batch_of: Callable[[Size], int],
        max_chunks: int,
        take: Callable[[int, Any], None],
    ) -> None:
        self._engine, self._batch_of, self._max_chunks, self._take = engine, batch_of, max_chunks, take
        self._waiting: dict[tuple[type, tuple[int, ...]], list[Row]] = {}
        self._copied_bytes = 0
        self._flying: deque[tuple[list[Row], Fetch]] = deque()

    def add(self, rows: Iterable[Row], chunk: int) -> None:
        """Append the rows of a chunk; full batches go to the device, and those that keep memory for too long."""
        for row in rows:
            key = type(row.pixels), row.pixels.shape
            group = self._waiting.setdefault(key, [])
            group.append(row)
            self._copied_bytes += _copied(row)
            if len(group) >= self._batch_of(frames_of(row.pixels)):
                self._launch(key)
        for key, group in list(self._waiting.items()):
            oldest = group[0].chunk
            if oldest is not None and oldest <= chunk - self._max_chunks:
                self._launch(key)
        while self._copied_bytes > WAITING_BYTES:
            self._launch(next(key for key, group in self._waiting.items() if group[0].chunk is None))

    def finish(self) -> None:
        """Send what waits, and take all results."""
        for key in list(self._waiting):
            self._launch(key)
        while self._flying:
            self._land()

    def _launch(self, key: tuple[type, tuple[int, ...]]) -> None:
        group = self._waiting.pop(key)
        self._copied_bytes -= sum(map(_copied, group))
        self._flying.append((group, self._engine.launch([row.pixels for row in group])))
        if len(self._flying) > IN_FLIGHT:
            self._land()

    def _land(self) -> None:
        group, fetch = self._flying.popleft()
        for row, codes in zip(group, fetch(), strict=True):
            self._take(row.place, codes)
            row.done()


def chunks_held(max_chunks: int) -> int:
    """Return the most chunks that rows of `Batches` keep: those of waiting rows and of the batches on the device."""
    return max_chunks + IN_FLIGHT * (max_chunks + 1)


def _copied(row: Row) -> int:
    return row.pixels.nbytes if row.chunk is None and isinstance(row.pixels, np.ndarray) else 0


def pixels_of(view: View, flip: bool) -> Pixels:
    """Return the pixels of a view or of its mirror image."""
    if view.resampling is not None:
        if view.jpeg is not None:
            return SourceJpeg(view.pixels, view.jpeg, view.resampling, flip)
        return SourcePicture(view.pixels[0], view.resampling, flip)
    return view.pixels[:, :, ::-1] if flip else view.pixels


def frames_of(pixels: Pixels) -> Size:
    """Return frames, height and width of what is encoded."""
    frames, height, width, _ = pixels.shape
    return frames, height, width
