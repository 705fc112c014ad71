"""The tokenizers of one replica: batches of arrays in, arrays out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import product, repeat
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels import requested_backend, use_backend
from kernels.runtime import jit
from model.bundle import load_bundle
from model.geometry import Geometry
from model.inference.tokenizer import BATCHES, CompiledTokenizer
from model.tokenizer.config import VQConfig
from model.tokenizer.heads import VQHead
from model.tokenizer.tokenizer import OmniTokenizer
from service.engine.card import model_card
from service.engine.chunks import run_chunk
from service.engine.device import DTYPES, choose_device
from service.engine.pictures import PackedPictures, SourcePicture, pack_pictures, resize_packed, resizes_like_media
from service.engine.step_clock import StepClock
from service.engine.transfers import Transfers
from service.scheduling.executor import DeviceFault, Fetch, OutOfMemory
from service.types import ModelCard, Size, TokenizerKey

WARM_UP_SIDE = 64  # pixels; enough to load every library that a real request needs
KERNEL_SIDES = (128, 136)  # pixels; kernels are compiled once for grids that their tiles divide and once for others
# Some kernels take any longer clips, few or many, as they take these.
LONG_CLIP_LATENT_FRAMES = 8  # after the first
MANY_CLIPS = 8
STAGED = {"pixels": torch.uint8, "tokens": torch.int64, "latents": torch.float32}  # as a batch travels to the device
UINT16_CODES = 2**16

T = TypeVar("T")
Staged = Tensor | PackedPictures  # a batch in the host's memory

log = logging.getLogger("ray.serve")


def usual_batches(
    geometry: Geometry, sizes: Sequence[Size], batch_tokens: int, batch_requests: int
) -> dict[Size, list[int]]:
    """Return the numbers of items to be ready for, by size in pixels; arguments as for `Engine.warm_up`."""
    usual = {}
    for size in sizes:
        most = max(1, min(batch_requests, batch_tokens // geometry.positions(size)))
        usual[size] = [batch for batch in sorted({*BATCHES, most}) if batch <= most]
    return usual


def kernel_sizes(geometry: Geometry, sizes: Sequence[Size]) -> list[Size]:
    """Return small sizes of every usual length, each in both kinds of grid."""
    lengths = {1, 1 + geometry.temporal_patch, _long(geometry), *(frames for frames, _, _ in sizes)}
    return [(frames, side, side) for frames, side in product(sorted(lengths), KERNEL_SIDES)]


def kernel_shapes(
    geometry: Geometry, usual: dict[Size, list[int]], small: list[Size]
) -> list[tuple[int, int, int, int]]:
    """Return batches, frames, heights and widths that between them take every kernel."""
    shapes = [(batch, *size) for size, batches in usual.items() for batch in batches]
    many = [(MANY_CLIPS, _long(geometry), side, side) for side in KERNEL_SIDES]
    return shapes + [(1, *size) for size in small] + many


def _long(geometry: Geometry) -> int:
    return 1 + LONG_CLIP_LATENT_FRAMES * geometry.temporal_patch


class Engine:
    """An engine that holds bundles on one device and runs batches of equal shape on them.

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
        self._transfers = Transfers(self._device)
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
            self.cards.append(model_card(bundle, str(self._device), dtype))
        self._transfers.settle()

    @property
    def clock(self) -> StepClock:
        """Return the clock of the steps of all batches, whatever they do."""
        return self._transfers.clock

    @property
    def codebooks(self) -> dict[str, NDArray[np.float32]]:
        """Return the codes (codes, channels) of each VQ bundle by its id."""
        heads = {name: tokenizer.head for name, tokenizer in self._tokenizers.items()}
        return {name: head.codebook.float().cpu().numpy() for name, head in heads.items() if isinstance(head, VQHead)}

    def warm_up(
        self,
        sizes: Sequence[Size] = (),
        batch_tokens: int = 0,
        batch_requests: int = 0,
        reached: Callable[..., None] = lambda stage, **fields: None,
    ) -> None:
        """Do now what the first callers would wait for.

        A tiny picture and a tiny clip run through every bundle. On a GPU it is small ones of every usual length, and
        the usual sizes are captured, in every number of items that a batch may have.

        Args:
            sizes: (frames, height, width) in pixels.
            batch_tokens, batch_requests: bounds of a batch.
            reached: takes the name of each stage on a GPU, with the model.
        """
        for card in self.cards:
            compiled = self._compiled.get(card.id)
            if compiled is None:
                self._try_out(card, [(frames, WARM_UP_SIDE, WARM_UP_SIDE) for frames in (1, 1 + card.temporal_patch)])
                continue
            usual = usual_batches(card.geometry, sizes, batch_tokens, batch_requests)
            small = kernel_sizes(card.geometry, sizes)
            compiled.prepare(kernel_shapes(card.geometry, usual, small))
            reached("kernels", model=card.id)
            for size, batches in usual.items():
                compiled.capture(size, batches)
            reached("graphs", model=card.id)
            self._transfers.settle()
            self._try_out(card, small)

    @torch.inference_mode()
    def resizes_pictures(self) -> bool:
        """Return whether `launch` takes `SourcePicture`s: on a GPU, if it resizes them bit for bit as `media` does."""
        if self._device.type == "cpu":
            return False  # which would resize no faster than `media` does
        try:
            return resizes_like_media(self._transfers)
        except Exception:
            log.exception("pictures are resized on the CPU, for the device cannot")
            return False

    def stage(self, key: TokenizerKey, payloads: Sequence[Any]) -> Staged:
        """Copy a batch to where the device reads it; any thread may do it while another launches one."""
        with self.clock.on_host("stage"):
            if isinstance(payloads[0], SourcePicture):
                return pack_pictures(payloads, self._transfers)
            return self._transfers.stage(payloads, STAGED[key.kind])

    def launch(self, key: TokenizerKey, payloads: Sequence[Any], staged: Staged | None = None) -> Fetch:
        """Start one batch, which waits for no kernel's compilation: torch's operators stand in.

        A GPU takes further batches before the results of this one are fetched, and computes them in that order.

        Args:
            key: the model, what to do, and the pixels' size.
            payloads: uint8 pixels (T, H, W, 3), or a `SourcePicture` that becomes such; integer tokens (t, h, w) or
                float latents (t, h, w, c); a `ChunkInput` for each chunk of a clip. All are alike.
            staged: the payloads as `stage` returned them; None does it here.
        Returns:
            A call that waits for the results of the items, in order. encode: tokens (t, h, w), uint16 or else int32,
            and float32 latents (t, h, w, c), None for what the key does not want or a VAE lacks; decode, reconstruct:
            uint8 pixels (T, H, W, 3); encode_chunk, decode_chunk: a `ChunkOutput`.
        Raises:
            OutOfMemory: the batch is too large for the device.
            DeviceFault: the device is unusable from this process; the call that waits raises it too.
        """
        batch, start = f"{len(payloads)} x {key}", partial(self._launch_now, key, payloads, staged)
        if self._device.type == "cpu":  # where one batch after the other is computed, and its answer waits for no other
            return lambda: self._do(batch, lambda: start()())
        launched = self._do(batch, start)
        return lambda: self._do(batch, launched)

    def run(self, key: TokenizerKey, payloads: Sequence[Any]) -> Sequence[Any]:
        """Run one batch alone; arguments, results and errors are those of `launch`."""
        return self.launch(key, payloads)()

    def _do(self, batch: str, work: Callable[[], T]) -> T:
        try:
            with torch.inference_mode(), self._transfers.computing():
                return work()
        except torch.OutOfMemoryError:
            pass  # leaving the handler frees the tensors that the traceback holds
        except torch.AcceleratorError as error:
            raise DeviceFault(str(error)) from None
        torch.cuda.empty_cache()
        raise OutOfMemory(batch)

    @torch.inference_mode()
    def _try_out(self, card: ModelCard, sizes: Sequence[Size]) -> None:
        tokenizer = self._compiled.get(card.id, self._tokenizers[card.id])
        with self._transfers.computing():
            for size in sizes:
                pixels = np.zeros((*size, 3), np.uint8)
                encode = TokenizerKey(card.id, "encode", "pixels", size)
                [(tokens, latents)] = self._start(tokenizer, encode, [pixels])()
                if tokens is not None:
                    self._start(tokenizer, TokenizerKey(card.id, "decode", "tokens", size), [tokens])()
                self._start(tokenizer, TokenizerKey(card.id, "decode", "latents", size), [latents])()

    def _launch_now(self, key: TokenizerKey, payloads: Sequence[Any], staged: Staged | None) -> Fetch:
        modules = self._tokenizers[key.model]
        if key.op in ("encode_chunk", "decode_chunk"):
            # Clips differ in how far they are, so each runs alone; a chunk is large enough to fill the device.
            return lambda: [self._run_chunk(modules, key, chunk) for chunk in payloads]
        compiled = self._compiled.get(key.model)
        if compiled is None or requested_backend() != "auto":
            return self._start(compiled or modules, key, payloads, staged)
        try:
            with jit.raise_if_missing():
                return self._start(compiled, key, payloads, staged)
        except jit.KernelNotReadyError as missing:
            first = missing.first
            if first:
                log.warning("%d x %s: torch's operators until %s is compiled", len(payloads), key, missing)
        answers: list[Any] = []
        with suppress(torch.OutOfMemoryError), use_backend("torch"):
            for payload in payloads:  # one by one: each takes several times the memory
                answers += self._start(modules, key, [payload])()
        too_large = len(answers) < len(payloads)
        if too_large or first:
            with suppress(torch.OutOfMemoryError):
                compiled.prepare([(len(payloads), *key.size)], wait=too_large)
        return self._start(compiled, key, payloads, staged) if too_large else lambda: answers

    def _run_chunk(self, modules: OmniTokenizer, key: TokenizerKey, chunk: Any) -> Any:
        with self.clock.on_device("encode"):
            return run_chunk(modules, key.op, chunk, self._device)

    def _start(
        self, tokenizer: OmniTokenizer, key: TokenizerKey, payloads: Sequence[Any], staged: Staged | None = None
    ) -> Fetch:
        staged = self.stage(key, payloads) if staged is None else staged
        if isinstance(staged, PackedPictures):
            uploaded = self._transfers.upload(staged.memory)
            with self.clock.on_device("resize"):
                batch = resize_packed(staged, uploaded)
            held = [uploaded, staged.source]
        else:
            if key.op == "decode":
                tokenizer.check_codes(staged, key.size)  # here, since on a GPU it would wait for what runs there
            batch, held = self._transfers.upload(staged), []
        with self.clock.on_device("encode"):
            results = _results(tokenizer, key, batch)
        download, count = self._transfers.download(batch, results, *held), len(batch)

        def fetch() -> list[Any]:
            columns = (repeat(None, count) if array is None else array for array in download.arrays())
            rows = list(zip(*columns, strict=True))
            return rows if key.op == "encode" else [pixels for (pixels,) in rows]

        return fetch


def _results(tokenizer: OmniTokenizer, key: TokenizerKey, batch: Tensor) -> tuple[Tensor | None, ...]:
    """Return tokens and latents, of which the key may want one alone, or pixels."""
    if key.op == "decode":
        return (tokenizer.decode_checked(batch, key.size).contiguous(),)
    if key.op == "reconstruct":
        return (tokenizer.reconstruct(batch).contiguous(),)
    head = tokenizer.config.head
    if not isinstance(head, VQConfig):
        return None, tokenizer.encode_latents(batch).float()
    tokens, vectors = tokenizer.encode_both(batch)
    dtype = torch.uint16 if head.codes <= UINT16_CODES else torch.int32
    return tokens.to(dtype) if key.want != "latents" else None, vectors.float() if key.want != "tokens" else None
