"""The tokenizers of one replica: batches of arrays in, arrays out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels import requested_backend, use_backend
from kernels.runtime import jit
from model.bundle import load_bundle
from model.inference.tokenizer import BATCHES, CompiledTokenizer
from model.tokenizer.tokenizer import OmniTokenizer
from service.engine.card import model_card
from service.engine.chunks import run_chunk
from service.engine.device import DTYPES, choose_device
from service.scheduling.executor import DeviceFault, OutOfMemory
from service.types import ModelCard, Size, TokenizerKey

WARM_UP_SIDE = 64  # pixels; enough to load every library that a real request needs
KERNEL_SIDES = (128, 136)  # pixels; kernels are compiled once for grids that their tiles divide and once for others
# Some kernels take any longer clips, few or many, as they take these.
LONG_CLIP_LATENT_FRAMES = 8  # after the first
MANY_CLIPS = 8

log = logging.getLogger("ray.serve")


class Engine:
    """Loads bundles onto one device and runs batches of equal shape on them.

    Args:
        bundles: bundle folders; the first is the default model.
        device: "cpu", "cuda", or "auto" for CUDA where there is one, which runs the compiled tokenizer.
        dtype: "float32" or "bfloat16"; vectors are assigned to codes in float32 either way.
        threads: CPU threads.
    Raises:
        BundleError: a folder is not a usable bundle.
        ValueError: two bundles share a name, or there is no CUDA device.
    """

    def __init__(self, bundles: Sequence[Path], device: str, dtype: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self._device = choose_device(device)
        self._tokenizers: dict[str, OmniTokenizer] = {}
        self._compiled: dict[str, CompiledTokenizer] = {}
        self.cards: list[ModelCard] = []
        for path in bundles:
            bundle = load_bundle(path, self._device, DTYPES[dtype])
            if bundle.name in self._tokenizers:
                raise ValueError(f"Two bundles are named {bundle.name!r}; rename the folder of one.")
            self._tokenizers[bundle.name] = bundle.tokenizer
            if self._device.type == "cuda":
                self._compiled[bundle.name] = CompiledTokenizer(bundle.tokenizer)
            self.cards.append(model_card(bundle, self._device, dtype))

    def warm_up(self, sizes: Sequence[Size] = (), batch_tokens: int = 0, batch_requests: int = 0) -> None:
        """Do now what the first callers would wait for.

        A tiny picture and a tiny clip run through every bundle. On a GPU it is small ones of every usual length, and
        the usual sizes are captured, in every number of items that a batch may have.

        Args:
            sizes: (frames, height, width) in pixels.
            batch_tokens, batch_requests: bounds of a batch.
        """
        for card in self.cards:
            lengths = {1, 1 + card.temporal_patch}
            compiled = self._compiled.get(card.id)
            if compiled is None:
                self._try_out(card, [(frames, WARM_UP_SIDE, WARM_UP_SIDE) for frames in sorted(lengths)])
                continue
            long = 1 + LONG_CLIP_LATENT_FRAMES * card.temporal_patch
            lengths |= {long, *(frames for frames, _, _ in sizes)}
            small = [(frames, side, side) for frames, side in product(sorted(lengths), KERNEL_SIDES)]
            usual = {}
            for size in sizes:
                most = min(batch_requests, batch_tokens // card.geometry.positions(size))
                usual[size] = [batch for batch in BATCHES if batch <= max(1, most)]
            shapes = [(batch, *size) for size, batches in usual.items() for batch in batches]
            shapes += [(1, *size) for size in small] + [(MANY_CLIPS, long, side, side) for side in KERNEL_SIDES]
            compiled.prepare(shapes)
            for size, batches in usual.items():
                compiled.capture(size, batches)
            self._try_out(card, small)

    def run(self, key: TokenizerKey, payloads: Sequence[Any]) -> list[Any]:
        """Run one batch, which waits for no kernel's compilation: torch's operators stand in.

        Args:
            key: the model, what to do, and the pixels' size.
            payloads: uint8 pixels (T, H, W, 3), integer tokens (t, h, w) or float latents (t, h, w, c), all alike; a
                `ChunkInput` for each chunk of a clip.
        Returns:
            encode: (int32 tokens (t, h, w) or None for a VAE, float32 latents (t, h, w, c)) per item;
            decode, reconstruct: uint8 pixels (T, H, W, 3) per item;
            encode_chunk, decode_chunk: a `ChunkOutput` per item.
        Raises:
            OutOfMemory: the batch is too large for the device.
            DeviceFault: the device is unusable from this process.
        """
        try:
            with torch.inference_mode():
                return self._compute_now(key, payloads)
        except torch.OutOfMemoryError:
            pass  # leaving the handler frees the tensors that the traceback holds
        except torch.AcceleratorError as error:
            raise DeviceFault(str(error)) from None
        torch.cuda.empty_cache()
        raise OutOfMemory(f"{len(payloads)} x {key}")

    @torch.inference_mode()
    def _try_out(self, card: ModelCard, sizes: Sequence[Size]) -> None:
        tokenizer = self._compiled.get(card.id, self._tokenizers[card.id])
        for size in sizes:
            pixels = np.zeros((*size, 3), np.uint8)
            [(tokens, latents)] = self._compute(tokenizer, TokenizerKey(card.id, "encode", "pixels", size), [pixels])
            if tokens is not None:
                self._compute(tokenizer, TokenizerKey(card.id, "decode", "tokens", size), [tokens])
            self._compute(tokenizer, TokenizerKey(card.id, "decode", "latents", size), [latents])

    def _compute_now(self, key: TokenizerKey, payloads: Sequence[Any]) -> list[Any]:
        if key.op in ("encode_chunk", "decode_chunk"):
            # Clips differ in how far they are, so each runs alone; a chunk is large enough to fill the device.
            return [run_chunk(self._tokenizers[key.model], key.op, chunk, self._device) for chunk in payloads]
        modules = self._tokenizers[key.model]
        compiled = self._compiled.get(key.model)
        if compiled is None or requested_backend() != "auto":
            return self._compute(compiled or modules, key, payloads)
        try:
            with jit.raise_if_missing():
                return self._compute(compiled, key, payloads)
        except jit.KernelNotReadyError as missing:
            first = missing.first
            if first:
                log.warning("%d x %s: torch's operators until %s is compiled", len(payloads), key, missing)
        answers: list[Any] = []
        with suppress(torch.OutOfMemoryError), use_backend("torch"):
            for payload in payloads:  # one by one: each takes several times the memory
                answers += self._compute(modules, key, [payload])
        too_large = len(answers) < len(payloads)
        if too_large or first:
            with suppress(torch.OutOfMemoryError):
                compiled.prepare([(len(payloads), *key.size)], wait=too_large)
        return self._compute(compiled, key, payloads) if too_large else answers

    def _compute(self, tokenizer: OmniTokenizer, key: TokenizerKey, payloads: Sequence[NDArray[Any]]) -> list[Any]:
        batch = self._load(key, np.stack(payloads))
        if key.op == "encode":
            if not tokenizer.config.is_vq:
                return [(None, latents) for latents in tokenizer.encode_latents(batch).float().cpu().numpy()]
            tokens, vectors = tokenizer.encode_both(batch)
            return list(zip(tokens.int().cpu().numpy(), vectors.float().cpu().numpy(), strict=True))
        if key.op == "reconstruct":
            return list(tokenizer.reconstruct(batch).cpu().numpy())
        return list(tokenizer.decode(batch, key.size).cpu().numpy())

    def _load(self, key: TokenizerKey, batch: NDArray[Any]) -> Tensor:
        dtype = {"pixels": np.uint8, "tokens": np.int64, "latents": np.float32}[key.kind]
        return torch.from_numpy(batch.astype(dtype, copy=False)).to(self._device)
