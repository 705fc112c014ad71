"""The tokenizer tier in one process, with the real engine: the answers are the network's, for both heads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from waiting import SECONDS, until

from kernels import requested_backend, use_backend
from kernels.runtime import jit
from model.bundle import BundleError, load_bundle, save_bundle
from model.inference.tokenizer import CompiledTokenizer
from model.tokenizer.config import CONFIGS, VAEConfig
from model.tokenizer.tokenizer import CodeError, OmniTokenizer
from service import in_process
from service.chunks import ChunkInput
from service.engine.late_kernels import LateKernels
from service.engine.tokenizer import Engine
from service.errors import ProblemError
from service.in_process import LocalBackend
from service.scheduling.batcher import Batch
from service.scheduling.executor import DeviceFault, OutOfMemory
from service.settings import Settings
from service.types import Message, TokenizerKey

SETTINGS = Settings(bundles=(), request_seconds=SECONDS)


@dataclass
class Work:
    done_: list[tuple[str, int, int, int]] = field(default_factory=list)

    def queue(self, requests: int, tokens: int, oldest: float | None) -> None: ...

    def batch(self, batch: Batch, seconds: float, waits: Sequence[float]) -> None: ...

    def split(self, batch: Batch, failure: str) -> None: ...

    def done(self, op: str, frames: int, tokens: int, model: str, requests: int) -> None:
        self.done_.append((op, frames, tokens, requests))


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("bundles")
    for name, config in {"vq": CONFIGS["debug"], "vae": replace(CONFIGS["debug"], head=VAEConfig(3))}.items():
        save_bundle(root / name, OmniTokenizer(config).eval(), card="Random weights for tests.")
    return [root / "vq", root / "vae"]


@pytest.fixture(scope="module")
def engine(bundles: list[Path]) -> Engine:
    engine = Engine(bundles, "cpu", "float32", 1)
    engine.warm_up()
    return engine


@pytest.fixture
def backend(engine: Engine) -> Iterator[LocalBackend]:
    backend = LocalBackend(engine.cards, engine.launch, SETTINGS, Work())
    yield backend
    backend.close()


PIXELS = np.random.default_rng(0).integers(0, 256, (6, 21, 35, 3), np.uint8)


def test_kernels_are_late_that_come_after_readiness(monkeypatch: pytest.MonkeyPatch) -> None:
    late = LateKernels()
    monkeypatch.setattr(jit, "_compiled", jit._compiled | {(0, "a kernel of the warm-up")})
    assert late.count == 0
    late.mark_ready()
    assert late.count == 0
    monkeypatch.setattr(jit, "_compiled", jit._compiled | {(0, "a kernel that nobody foresaw")})
    assert late.count == 1


class Cold(CompiledTokenizer):
    """Lacks a kernel for the first call."""

    def __init__(self, tokenizer: OmniTokenizer) -> None:
        super().__init__(tokenizer)
        self.calls: list[Any] = []

    def prepare(self, shapes: Any, wait: bool = True) -> None:
        self.calls.append((*shapes, wait))

    def encode_both(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        self.calls.append(len(pixels))
        if len(self.calls) == 1:
            raise jit.KernelNotReadyError("peg_kernel", first=True)
        return super().encode_both(pixels)


@pytest.fixture
def cold(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Cold:
    cold = Cold(engine._tokenizers["vq"])
    monkeypatch.setitem(engine._compiled, "vq", cold)
    return cold


def test_nobody_waits_for_a_compiler(engine: Engine, cold: Cold, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shapes that the compiled tokenizer refuses run on the plain modules."""
    key, pixels, modules = (
        TokenizerKey("vq", "encode", "pixels", (6, 21, 35)),
        [PIXELS, PIXELS[::-1]],
        engine._tokenizers["vq"],
    )
    seen: list[Any] = []

    def encode_both(pixels: Tensor) -> tuple[Tensor, Tensor]:
        seen.append((len(pixels), requested_backend()))
        return OmniTokenizer.encode_both(modules, pixels)

    monkeypatch.setattr(modules, "encode_both", encode_both)
    found = engine.run(key, pixels)
    assert (seen, cold.calls) == ([(1, "torch"), (1, "torch")], [2, ((2, 6, 21, 35), False)])
    for (tokens, vectors), (same_tokens, same_vectors) in zip(found, engine.run(key, pixels), strict=True):
        np.testing.assert_array_equal(tokens, same_tokens)
        np.testing.assert_allclose(vectors, same_vectors, atol=1e-5)


def test_what_fits_into_no_memory_but_the_compiled_way_waits(
    engine: Engine, cold: Cold, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(pixels: Tensor) -> tuple[Tensor, Tensor]:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(engine._tokenizers["vq"], "encode_both", too_large)
    [(tokens, _)] = engine.run(TokenizerKey("vq", "encode", "pixels", (6, 21, 35)), [PIXELS])
    assert tokens.shape == cold.config.geometry.grid((6, 21, 35))
    assert cold.calls == [1, ((1, 6, 21, 35), True), 1]


def test_a_backend_that_was_asked_for_is_not_replaced(engine: Engine, cold: Cold) -> None:
    with use_backend("reference"), pytest.raises(jit.KernelNotReadyError):
        engine.run(TokenizerKey("vq", "encode", "pixels", (6, 21, 35)), [PIXELS])


async def test_cards_tell_what_the_bundles_are(backend: LocalBackend, bundles: list[Path]) -> None:
    vq, vae = await backend.models()
    assert (vq.id, vq.kind, vq.codebook_size, vq.latent_channels) == ("vq", "vq", 64, 4)
    assert (vae.id, vae.kind, vae.codebook_size, vae.latent_channels) == ("vae", "vae", None, 3)
    assert [vq.hash, vae.hash] == [load_bundle(path).hash for path in bundles]
    assert (vq.device, vq.dtype, vq.streaming) == ("cpu", "float32", True)


async def test_vq_answers_are_the_networks(backend: LocalBackend, bundles: list[Path]) -> None:
    tokenizer = load_bundle(bundles[0]).tokenizer
    with torch.inference_mode():
        batch = torch.from_numpy(PIXELS)[None]
        tokens, latents = tokenizer.encode(batch)[0].numpy(), tokenizer.encode_latents(batch)[0].numpy()
        pixels = tokenizer.reconstruct(batch)[0].numpy()
        whole = tokenizer.decode(torch.from_numpy(tokens)[None])[0].numpy()
    both = await backend.encode("vq", PIXELS, "both")
    assert both.tokens is not None
    assert both.tokens.dtype == np.int32
    np.testing.assert_array_equal(both.tokens, tokens)
    np.testing.assert_allclose(both.latents, latents, atol=1e-6)
    only_tokens, only_latents = (
        await backend.encode("vq", PIXELS, "tokens"),
        await backend.encode("vq", PIXELS, "latents"),
    )
    assert (only_tokens.latents, only_latents.tokens) == (None, None)
    np.testing.assert_array_equal((await backend.decode("vq", both.tokens, (6, 21, 35))).pixels, pixels)
    np.testing.assert_array_equal(
        (await backend.decode("vq", both.tokens.astype(np.uint16), (9, 24, 40))).pixels, whole
    )
    np.testing.assert_array_equal((await backend.decode("vq", both.latents, (6, 21, 35))).pixels, pixels)
    np.testing.assert_array_equal((await backend.reconstruct("vq", PIXELS)).pixels, pixels)


def test_only_what_is_wanted_comes_back_and_tokens_are_narrow(engine: Engine) -> None:
    key = TokenizerKey("vq", "encode", "pixels", (6, 21, 35))
    [(tokens, latents)] = engine.run(key, [PIXELS])
    [(only_tokens, no_latents)] = engine.run(key._replace(want="tokens"), [PIXELS])
    [(no_tokens, only_latents)] = engine.run(key._replace(want="latents"), [PIXELS])
    assert (no_tokens, no_latents) == (None, None)
    assert (tokens.dtype, latents.dtype) == (np.uint16, np.float32)
    np.testing.assert_array_equal(only_tokens, tokens)
    np.testing.assert_array_equal(only_latents, latents)
    for wrong in (np.full((1, 2, 3), 64), np.full((1, 2, 3), -1), np.full((1, 2, 3), 2**32)):
        with pytest.raises(CodeError, match="must be in"):
            engine.run(TokenizerKey("vq", "decode", "tokens", (1, 16, 24)), [wrong])


async def test_bfloat16_rounds_the_network_and_not_the_answers(bundles: list[Path]) -> None:
    engine = Engine(bundles, "cpu", "bfloat16", 1)
    assert {card.dtype for card in engine.cards} == {"bfloat16"}
    exact = load_bundle(bundles[1]).tokenizer
    backend = LocalBackend(engine.cards, engine.launch, SETTINGS, Work())
    encoded = await backend.encode("vae", PIXELS, "latents")
    decoded = await backend.decode("vae", encoded.latents, (6, 21, 35))
    backend.close()
    with torch.inference_mode():
        latents = exact.encode(torch.from_numpy(PIXELS)[None])[0].numpy()
        pixels = exact.decode(torch.from_numpy(encoded.latents)[None], (6, 21, 35))[0].numpy()
    assert encoded.latents is not None
    assert encoded.latents.dtype == np.float32
    assert 0 < np.abs(encoded.latents - latents).max() < 0.05
    assert 0 < np.abs(decoded.pixels.astype(int) - pixels).max() < 10


async def test_vae_answers_are_the_networks(backend: LocalBackend, bundles: list[Path]) -> None:
    tokenizer = load_bundle(bundles[1]).tokenizer
    with torch.inference_mode():
        batch = torch.from_numpy(PIXELS)[None]
        mean, pixels = tokenizer.encode(batch)[0].numpy(), tokenizer.reconstruct(batch)[0].numpy()
    encoded = await backend.encode("vae", PIXELS, "latents")
    assert encoded.tokens is None
    np.testing.assert_allclose(encoded.latents, mean, atol=1e-6)
    np.testing.assert_array_equal((await backend.decode("vae", encoded.latents, (6, 21, 35))).pixels, pixels)


async def test_a_batch_equals_its_items(backend: LocalBackend) -> None:
    clips = np.random.default_rng(1).integers(0, 256, (7, 5, 16, 24, 3), np.uint8)
    alone = [(await backend.encode("vq", clip, "tokens")).tokens for clip in clips]
    together = await asyncio.gather(*(backend.encode("vq", clip, "tokens") for clip in clips))
    assert max(answer.timing.batch_size for answer in together) > 1
    for one, answer in zip(alone, together, strict=True):
        np.testing.assert_array_equal(answer.tokens, one)


async def test_work_is_counted_in_frames_and_latent_positions(engine: Engine) -> None:
    work = Work()
    backend = LocalBackend(engine.cards, engine.launch, SETTINGS, work)
    encoded = await backend.encode("vq", PIXELS, "tokens")
    await backend.decode("vq", encoded.tokens, (9, 24, 40))
    await backend.reconstruct("vq", PIXELS)
    await asyncio.sleep(0)
    assert work.done_ == [("encode", 6, 45, 1), ("decode", 9, 45, 1), ("reconstruct", 6, 45, 1)]
    work.done_.clear()
    answers: list[Any] = []
    key = TokenizerKey("vq", "encode", "pixels", (6, 21, 35), "tokens")
    [numbers] = backend.start([Message(key, 45, [PIXELS] * 3, 60.0, lambda *answer: answers.append(answer))])
    assert len(numbers) == 3
    await until(lambda: len(answers) == 3)
    assert [index for index, *_ in answers] == [0, 1, 2]
    assert work.done_ == [("encode", 18, 135, 3)]
    work.done_.clear()
    codes = np.zeros((2, 3, 5), np.int32)
    start = await backend.decode_chunk("vq", ChunkInput(codes))
    await backend.decode_chunk("vq", ChunkInput(codes, start.state))
    await backend.encode_chunk("vq", ChunkInput(PIXELS))
    with pytest.raises(CodeError):
        await backend.decode("vq", np.full((1, 3, 5), 10**6, np.int32), (1, 24, 40))
    await asyncio.sleep(0)
    assert work.done_ == [("decode_chunk", 5, 30, 1), ("decode_chunk", 8, 30, 1), ("encode_chunk", 6, 45, 1)]
    backend.close()


async def test_an_unknown_model_is_refused(backend: LocalBackend) -> None:
    with pytest.raises(ProblemError) as refused:
        await backend.encode("other", PIXELS, "tokens")
    assert refused.value.code == "unknown-model"


async def test_health_follows_the_engine(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, entered = threading.Event(), threading.Event()

    def run(key: TokenizerKey, payloads: Sequence[Any]) -> Sequence[Any]:
        entered.set()
        gate.wait()
        raise DeviceFault("illegal access")

    backend = LocalBackend(engine.cards, lambda *batch: partial(run, *batch), SETTINGS, Work())
    task = asyncio.create_task(backend.reconstruct("vq", PIXELS))
    await asyncio.to_thread(entered.wait)
    backend.check_health()
    monkeypatch.setattr(in_process, "STALL_FACTOR", 0)
    with pytest.raises(RuntimeError, match="has been running"):
        backend.check_health()
    gate.set()
    with pytest.raises(DeviceFault):
        await task
    with pytest.raises(RuntimeError, match="unusable"):
        backend.check_health()
    backend.close()


@pytest.mark.parametrize(
    ("error", "expected"),
    [(torch.OutOfMemoryError("full"), OutOfMemory), (torch.AcceleratorError("broken"), DeviceFault)],
)
def test_failures_of_the_device_have_names(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, error: Exception, expected: type[Exception]
) -> None:
    def fail(*arguments: Any) -> Any:
        raise error

    monkeypatch.setattr(OmniTokenizer, "encode_both", fail)
    with pytest.raises(expected) as raised:
        engine.run(TokenizerKey("vq", "encode", "pixels", (6, 21, 35)), [PIXELS])
    assert raised.value.__context__ is None or expected is DeviceFault, "the failed batch's tensors are still held"


def test_bundles_must_load_and_have_names_of_their_own(bundles: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Two bundles are named 'vq'"):
        Engine([bundles[0], bundles[0]], "cpu", "float32", 1)
    with pytest.raises(BundleError):
        Engine([tmp_path], "cpu", "float32", 1)
