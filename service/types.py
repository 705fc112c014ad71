"""Types that the two tiers exchange: plain data and protocols, with neither torch, ray nor fastapi."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from media.types import Frames, MediaOptions
from model.geometry import Geometry, Size
from service.chunks import ChunkInput, ChunkOutput, FrameStream
from service.errors import ProblemError
from service.flow import NOBODY, Flow

Want = Literal["tokens", "latents", "both"]
Op = Literal["encode", "decode", "reconstruct", "encode_chunk", "decode_chunk"]
Kind = Literal["image", "video"]


@dataclass(frozen=True)
class ModelCard:
    """The service's description of one bundle; the body of `GET /models/{id}`.

    Args:
        id: the bundle's name, as callers use it.
        hash: content hash of the bundle (64 hex digits); tokens travel with it.
        kind: "vq" (tokens) or "vae" (latents).
        codebook_size: number of codes of a VQ bundle, None for a VAE.
        latent_channels: channels of a latent vector.
        patch, temporal_patch: pixels and frames behind one latent position.
        temporal_order: "causal" or "published".
        streaming: whether long clips may be encoded in chunks.
        parameters: number of weights.
        device, dtype: where and in what precision the replicas run it.
        licence: licence of the weights, or None if the bundle does not say.
    """

    id: str
    hash: str
    kind: Literal["vq", "vae"]
    codebook_size: int | None
    latent_channels: int
    patch: int
    temporal_patch: int
    temporal_order: Literal["causal", "published"]
    streaming: bool
    parameters: int
    device: str
    dtype: str
    licence: str | None = None

    @property
    def geometry(self) -> Geometry:
        """Return the correspondence of pixels and latent positions."""
        return Geometry(self.patch, self.temporal_patch)

    def as_dict(self) -> dict[str, Any]:
        """Return the card as JSON-ready data."""
        return asdict(self)


class TokenizerKey(NamedTuple):
    """A kind of work of the tokenizers; arrays of equal key stack into one batch.

    Args:
        model: id of the bundle.
        op: the operation.
        kind: content of the payload.
        size: frames, height and width of the pixels that go in or come out.
        want: the codes that encode returns.
    """

    model: str
    op: Op
    kind: Literal["pixels", "tokens", "latents"]
    size: Size
    want: Want = "both"

    @property
    def frames(self) -> int:
        """Return the pixel frames of an item."""
        return self.size[0]


class Timing(NamedTuple):
    """The milliseconds of a request in the queue and on the device of a tokenizer, and the size of its batch."""

    queue_ms: float
    compute_ms: float
    batch_size: int


Done = Callable[[int, Any, Timing | None], None]  # of the item at an index, a result with its timing, or an exception


class Message(NamedTuple):
    """Items of one call that are alike, for a queue of work, which takes all of them or none.

    Args:
        key: what the items may share a batch with.
        cost: latent positions of each.
        payloads: of the items.
        seconds: time left until their deadline.
        done: called once for each item that is not cancelled, on the event loop. Nobody reads the payload any more.
        flow: whose share they take.
    """

    key: TokenizerKey
    cost: int
    payloads: Sequence[Any]
    seconds: float
    done: Done
    flow: Flow = NOBODY


@dataclass(frozen=True)
class Encoded:
    """The outputs of `Backend.encode`.

    Args:
        tokens: int32 (t, h, w), or None.
        latents: float32 (t, h, w, c), or None.
    """

    tokens: NDArray[np.int32] | None
    latents: NDArray[np.float32] | None
    timing: Timing


@dataclass(frozen=True)
class Decoded:
    """The output of `Backend.decode` and `Backend.reconstruct`: uint8 RGB pixels (T, H, W, 3)."""

    pixels: NDArray[np.uint8]
    timing: Timing


class Backend(Protocol):
    """The tokenizer tier as the HTTP tier sees it. Every method may raise `ProblemError`.

    `seconds` is the time left until the deadline, the service's own if None.
    """

    async def models(self) -> list[ModelCard]:
        """Return the bundles that are served, the default one first."""
        ...

    async def codebook(self, model: str) -> NDArray[np.float32]:
        """Return the codes (codebook_size, latent_channels) of a VQ bundle."""
        ...

    async def encode(
        self, model: str, pixels: NDArray[np.uint8], want: Want, *, seconds: float | None = None
    ) -> Encoded:
        """Encode uint8 RGB pixels (T, H, W, 3), 1 <= T; any T, H, W: the model pads and says so in its grid."""
        ...

    async def encode_many(
        self, model: str, clips: Sequence[NDArray[np.uint8]], want: Want, *, seconds: float | None = None
    ) -> Sequence[Encoded | ProblemError]:
        """Encode clips of one size; return the outcome of each."""
        ...

    async def decode(self, model: str, codes: NDArray[Any], size: Size, *, seconds: float | None = None) -> Decoded:
        """Decode tokens int (t, h, w) or latents float (t, h, w, c); crop to `size` (frames, height, width)."""
        ...

    async def reconstruct(self, model: str, pixels: NDArray[np.uint8], *, seconds: float | None = None) -> Decoded:
        """Encode, then decode in one visit; the answer has the shape of `pixels`."""
        ...

    async def encode_chunk(self, model: str, chunk: ChunkInput, *, seconds: float | None = None) -> ChunkOutput:
        """Encode the next frames of a clip to tokens, or latents of a VAE; its state travels with each chunk."""
        ...

    async def decode_chunk(self, model: str, chunk: ChunkInput, *, seconds: float | None = None) -> ChunkOutput:
        """Decode the next latent frames of a clip."""
        ...


async def encode_each(
    backend: Backend, model: str, clips: Sequence[NDArray[np.uint8]], want: Want, seconds: float | None
) -> list[Encoded | ProblemError]:
    """Encode clips by a call each; the arguments and the outcomes are those of `Backend.encode_many`."""

    async def one(pixels: NDArray[np.uint8]) -> Encoded | ProblemError:
        try:
            return await backend.encode(model, pixels, want, seconds=seconds)
        except ProblemError as problem:
            return problem

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(pixels)) for pixels in clips]
    return [task.result() for task in tasks]


GeneratorKind = Literal["lm", "diffusion"]
SAMPLING_SETTINGS: dict[GeneratorKind, tuple[str, ...]] = {
    "lm": ("temperature", "top_k", "top_p", "guidance", "guidance_growth"),
    "diffusion": ("guidance", "steps", "sampler"),
}  # that each kind reads


@dataclass(frozen=True)
class GenerateParams:
    """Settings of one sample, of which a generator reads those of its kind.

    Args:
        temperature: divides the logits; 0 takes the likeliest token.
        top_k: candidates kept, ties included; 0 keeps all.
        top_p: probability kept, in (0, 1].
        guidance: scale of classifier-free guidance; 1 is none.
        guidance_growth: growth of guidance - 1 with each token, as a share of itself.
        steps: denoising steps.
        sampler: rule of a denoising step.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    guidance: float = 1.0
    guidance_growth: float = 0.0
    steps: int = 50
    sampler: Literal["ddim", "ddpm"] = "ddim"

    def of(self, kind: GeneratorKind) -> dict[str, Any]:
        """Return the settings that a kind of generator reads."""
        return {name: getattr(self, name) for name in SAMPLING_SETTINGS[kind]}


@dataclass(frozen=True)
class GeneratorCard:
    """The service's description of one generator bundle.

    Args:
        id: the bundle's name, as callers use it.
        hash: content hash of the bundle, 64 hex digits.
        kind: "lm" over tokens, or "diffusion" over latents.
        makes: the kinds of results, first the one of a request that asks for none.
        tokenizer_hash: content hash of the tokenizer bundle whose codes it makes.
        classes: names by class id, empty where the bundle has none.
        class_count: number of classes, 0 for an unconditional model.
        unconditional: whether a sample may have no class.
        grid: latent frames, height and width that it was trained on.
        takes_prefix: whether a sample may continue given frames; `needs_prefix`: whether it must.
        guided: whether guidance applies.
        defaults: settings of a sample that names none.
        slots: sequences that one replica computes at a time; a guided sample takes two.
        parameters: number of weights.
        device, dtype: where and in what precision the replicas run it.
        licence: licence of the weights, or None if the bundle does not say.
        max_steps: most denoising steps of a diffusion model, None for a language model.
        step_seconds: time of one step of one sample on this device, measured, or None.
        tokenizer: id of the served tokenizer of `tokenizer_hash`; None while it is not served, and nothing can be made.
    """

    id: str
    hash: str
    kind: GeneratorKind
    makes: tuple[Kind, ...]
    tokenizer_hash: str
    classes: tuple[str, ...]
    class_count: int
    unconditional: bool
    grid: tuple[int, int, int]
    takes_prefix: bool
    needs_prefix: bool
    guided: bool
    defaults: GenerateParams
    slots: int
    parameters: int
    device: str
    dtype: str
    licence: str | None = None
    max_steps: int | None = None
    step_seconds: float | None = None
    tokenizer: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the card as JSON-ready data."""
        return asdict(self) | {"defaults": self.defaults.of(self.kind)}

    @property
    def computes_in_order(self) -> bool:
        """Return whether the samples of a batch take their times one after another, as on a CPU."""
        return self.device == "cpu"


@dataclass(frozen=True, eq=False)
class GenerateJob:
    """One sample for one generator: a sequence of tokens, or one set of latents.

    Args:
        model: id of the generator.
        class_id: its class, or None for an unconditional sample.
        frames: latent frames of the result, the prompt's included.
        params: settings of the sample.
        seed: of the request; `index`: number of this sample in it. The same pair gives the same sample in any company.
        prompt: tokens int32 (t, h, w) that the result begins with, or None.
        watched: whether anyone wants its progress; `preview`: whether that shall carry codes.
    """

    model: str
    class_id: int | None
    frames: int
    params: GenerateParams
    seed: int
    index: int = 0
    prompt: NDArray[np.int32] | None = None
    watched: bool = True
    preview: bool = False


@dataclass(frozen=True, eq=False)
class JobProgress:
    """The state of a job.

    Args:
        done, total: steps: tokens of a language model, denoising steps of diffusion.
        position: jobs ahead of it in the queue, None once it runs.
        codes: tokens int32 (n,) in raster order, the prompt's included, as far as they are known; None if not read.
    """

    done: int
    total: int
    position: int | None = None
    codes: NDArray[np.int32] | None = None


@dataclass(frozen=True, eq=False)
class Generated:
    """The outcome of a job.

    Args:
        tokens: int32 (t, h, w) of a language model, or None.
        latents: float32 (t, h, w, c) of diffusion, in the tokenizer's own scale, or None.
        timing: time in the queue, time from the first step to the last, and jobs that ran at the end.
    """

    tokens: NDArray[np.int32] | None
    latents: NDArray[np.float32] | None
    timing: Timing = field(default=Timing(0.0, 0.0, 1))


class GeneratorBackend(Protocol):
    """The generators as the use case sees them. Every method may raise `ProblemError`."""

    async def generators(self) -> list[GeneratorCard]:
        """Return the generators that run, the default one first; `tokenizer` of each is None."""
        ...

    async def generate(
        self, job: GenerateJob, on_progress: Callable[[JobProgress], None], *, seconds: float | None = None
    ) -> Generated:
        """Make one sample.

        Args:
            job: the sample.
            on_progress: called on the event loop, with the newest state only; a slow reader misses some.
            seconds: time left until the deadline, the service's own if None.

        Cancelling the caller frees the sample's slots within two steps.
        """
        ...


class Media(Protocol):
    """The media workers as the use cases see them. Every method may raise `ProblemError` and `MediaError`."""

    async def decode(self, data: bytes, declared: str | None, options: MediaOptions) -> Frames:
        """Decode a picture or a clip, whose sender gave it the media type `declared`, or none."""
        ...

    def stream(
        self, pieces: AsyncIterator[bytes], declared: str | None, options: MediaOptions
    ) -> AbstractAsyncContextManager[FrameStream]:
        """Decode a clip while its pieces arrive; leaving the context ends it."""
        ...

    async def encode(self, pixels: NDArray[np.uint8], media_type: str, fps: float, quality: int | None = None) -> bytes:
        """Compress uint8 RGB pixels (T, H, W, 3), T = 1 for a picture; quality is 1 to 100, None for the default."""
        ...


def size_of(pixels: NDArray[np.uint8]) -> Size:
    """Return frames, height and width of uint8 RGB pixels (T, H, W, 3)."""
    frames, height, width, _ = pixels.shape
    return frames, height, width
