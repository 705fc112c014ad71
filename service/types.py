"""Types that the two tiers exchange: plain data and protocols, with neither torch, ray nor fastapi."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from model.geometry import Geometry, Size

Want = Literal["tokens", "latents", "both"]
Op = Literal["encode", "decode", "reconstruct"]


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


@dataclass(frozen=True)
class TokenizerKey:
    """A kind of work of the tokenizers; arrays of equal key stack into one batch.

    Args:
        model: id of the bundle.
        op: the operation.
        kind: content of the payload.
        size: frames, height and width of the pixels that go in or come out.
    """

    model: str
    op: Op
    kind: Literal["pixels", "tokens", "latents"]
    size: Size


@dataclass(frozen=True)
class Timing:
    """Where a request spent its time in the tokenizer tier, milliseconds, and how much company it had."""

    queue_ms: float
    compute_ms: float
    batch_size: int


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
    """The tokenizer tier as the HTTP tier sees it. Every method may raise `ProblemError`."""

    async def models(self) -> list[ModelCard]:
        """Return the bundles that are served, the default one first."""
        ...

    async def encode(self, model: str, pixels: NDArray[np.uint8], want: Want) -> Encoded:
        """Encode uint8 RGB pixels (T, H, W, 3), 1 <= T; any T, H, W: the model pads and says so in its grid."""
        ...

    async def decode(self, model: str, codes: NDArray[Any], size: Size) -> Decoded:
        """Decode tokens int (t, h, w) or latents float (t, h, w, c); crop to `size` (frames, height, width)."""
        ...

    async def reconstruct(self, model: str, pixels: NDArray[np.uint8]) -> Decoded:
        """Encode, then decode in one visit; the answer has the shape of `pixels`."""
        ...


class HttpMetrics(Protocol):
    """The metrics of the HTTP tier: one observation for each finished request. Labels come from closed sets."""

    def observe(self, route: str, method: str, code: str, seconds: float, bytes_in: int, bytes_out: int) -> None:
        """Count a request that is over.

        Args:
            route: such as "/encode", or "other".
            method: such as "POST", or "other".
            code: the HTTP status, or "499" when the client left first.
            seconds: from the first byte of the request to the last of the answer.
            bytes_in, bytes_out: bodies, bytes.
        """
        ...

    def in_flight(self, route: str, change: int) -> None:
        """Count a request that began (+1) or ended (-1)."""
        ...


def size_of(pixels: NDArray[np.uint8]) -> Size:
    """Return frames, height and width of uint8 RGB pixels (T, H, W, 3)."""
    frames, height, width, _ = pixels.shape
    return frames, height, width
