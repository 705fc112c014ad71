"""A callable that tokenizes batches of rows: for `datasets.map(batched=True)` and Ray Data's `map_batches`."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from media.images import convert
from media.kinds import Kind
from media.picture_file import orientation
from media.reader import open_frames
from media.resize import plan
from model.codes.info import EncodingOptions
from service.bulk.batches import SharedEngine
from service.bulk.decoder import TOO_LARGE, reason
from service.bulk.reading import media_options
from service.engine.device import choose_device
from service.engine.tokenizer import Engine

MAX_BATCH = 64


class TokenizeBatch:
    """A callable that adds a column of tokens or latents to batches of pictures or clips.

    `dataset.map(TokenizeBatch(bundle), batched=True)` works in this process; `ray_data.map_batches(TokenizeBatch,
    fn_constructor_args=(bundle,), compute=ActorPoolStrategy(size=1), num_gpus=1)` in an actor. Rows that cannot be read
    have None and the reason. Files are decoded here; `omnitok tokenize` reads in processes of their own, and resumes.

    Args:
        bundle: folder of the tokenizer.
        size: side of the squares, or (height, width); None keeps that of each.
        frames: of every clip, whose last frame is held; None for pictures.
        column: holds files as bytes, maps with `bytes` (`Image(decode=False)`), Pillow's images, or uint8 arrays
            (H, W, 3) or (T, H, W, 3).
        output: tokens or latents; also the name of the new column.
        device: "auto", "cpu" or "cuda".
        dtype: precision; None for bfloat16 on a GPU and float32 elsewhere.
    """

    def __init__(
        self,
        bundle: str | Path,
        size: int | tuple[int, int] | None = 256,
        frames: int | None = None,
        column: str = "image",
        output: Literal["tokens", "latents"] = "tokens",
        device: str = "auto",
        dtype: str | None = None,
    ) -> None:
        height, width = (size, size) if isinstance(size, int) or size is None else size
        self._bundle, self._options = str(Path(bundle).resolve()), EncodingOptions(height, width, frames=frames)
        self._kind: Kind = "images" if frames is None else "clips"
        self._column, self._output, self._device, self._dtype = column, output, device, dtype
        self._engine: SharedEngine | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return the options alone, which also name the cache of `datasets`."""
        return vars(self) | {"_engine": None}

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Return the batch with the columns `tokens` or `latents`, and `error`, empty where there is none."""
        codes: list[Any] = [None] * len(batch[self._column])
        errors = [""] * len(codes)  # never None: `datasets` takes types from the first rows
        waiting: dict[tuple[int, ...], list[tuple[int, NDArray[np.uint8]]]] = {}
        for row, value in enumerate(batch[self._column]):
            try:
                pixels = self._pixels(value)
            except Exception as error:  # damaged media fail in every way that there is
                errors[row] = reason(error)
                continue
            group = waiting.setdefault(pixels.shape, [])
            group.append((row, pixels))
        for group in waiting.values():
            for first in range(0, len(group), MAX_BATCH):
                part = group[first : first + MAX_BATCH]
                found = self._running().launch([pixels for _, pixels in part])()
                for (row, _), one in zip(part, found, strict=True):
                    codes[row] = one
                    errors[row] = TOO_LARGE if one is None else ""
        return {**batch, self._output: codes, "error": errors}

    def _running(self) -> SharedEngine:
        if self._engine is None:
            device = choose_device(self._device).type
            dtype = self._dtype or ("bfloat16" if device == "cuda" else "float32")
            engine = Engine([Path(self._bundle)], device, dtype, len(os.sched_getaffinity(0)))
            self._engine = SharedEngine(engine, self._output)
        return self._engine

    def _pixels(self, value: Any) -> NDArray[np.uint8]:
        """Return uint8 RGB (T, H, W, 3) of one value; files are read as everywhere."""
        data = value.get("bytes") if isinstance(value, dict) else value
        options = media_options(self._kind, self._options)
        if isinstance(data, bytes | bytearray | memoryview):
            frames = list(open_frames(io.BytesIO(data), None, options))
        elif isinstance(data, Image.Image):
            upright = orientation(data)
            planned = plan(*upright.size(data.height, data.width), options.size, options.fit, None)
            frames = [convert(data, planned, upright, data.info.get("icc_profile"))]
        else:
            array = np.asarray(data)
            if array.dtype != np.uint8 or array.ndim not in (3, 4) or array.shape[-1] != 3:
                raise ValueError(f"Pixels are uint8 (H, W, 3) or (T, H, W, 3), not {array.dtype} {array.shape}.")
            clip = (array if array.ndim == 4 else array[None])[: options.frames]
            _, height, width, _ = clip.shape
            planned = plan(height, width, options.size, options.fit, None)
            frames = [planned.frame(frame) for frame in clip]
        if self._options.frames is not None:
            frames += [frames[-1]] * (self._options.frames - len(frames))
        return np.stack(frames)
