"""The engine of the baselines, and the few lines of HTTP bodies that they need."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from service.engine.tokenizer import Engine
from service.formats.media_types import MSGPACK
from service.formats.msgpack import pack, unpack
from service.formats.tensors import pack_tensor, unpack_tensor
from service.types import TokenizerKey

BATCH = 16
MAX_BODY_BYTES = 2**24
SIZES = ((1, 256, 256), (17, 128, 128))
BATCH_TOKENS = 16_384  # latent positions of a batch in the warm-up


class Encoder:
    """The service's engine behind one call.

    Args:
        bundle: folder of a tokenizer.
        dtype: "float32" or "bfloat16".
    """

    def __init__(self, bundle: Path, dtype: str) -> None:
        self._engine = Engine([bundle], "auto", dtype, torch.get_num_threads())
        self._engine.warm_up(SIZES, BATCH_TOKENS, BATCH)
        self._model = self._engine.cards[0].id

    def encode(self, pixels: Sequence[NDArray[np.uint8]]) -> list[NDArray[Any]]:
        """Return the tokens, or the latents of a VAE, of equal clips (T, H, W, 3) in one batch."""
        frames, height, width = pixels[0].shape[:3]
        key = TokenizerKey(self._model, "encode", "pixels", (frames, height, width), "tokens")
        return [latents if tokens is None else tokens for tokens, latents in self._engine.run(key, pixels)]

    def encode_mixed(self, pixels: Sequence[NDArray[np.uint8]]) -> list[NDArray[Any]]:
        """Return codes of clips of any sizes, a batch a size."""
        answers: dict[int, NDArray[Any]] = {}
        for shape in {clip.shape for clip in pixels}:
            chosen = [index for index, clip in enumerate(pixels) if clip.shape == shape]
            answers |= zip(chosen, self.encode([pixels[index] for index in chosen]), strict=True)
        return [answers[index] for index in range(len(pixels))]


def read_pixels(body: bytes, content_type: str) -> NDArray[np.uint8]:
    """Return the clip (T, H, W, 3) in a body of the mixes."""
    if content_type == MSGPACK:
        return unpack_tensor(unpack(body, MAX_BODY_BYTES)["array"], "`array`")
    return np.asarray(Image.open(io.BytesIO(body)).convert("RGB"))[None]


def write_codes(codes: NDArray[Any]) -> bytes:
    """Return the body of an answer."""
    return pack({"codes": pack_tensor(codes)})
