"""The Python client of the service. It needs neither torch nor ray.

with Client("http://127.0.0.1:8000") as client:
    result = client.encode(Path("clip.mp4"), size="128", frames=17)
    video = client.decode(result, accept="video/mp4")
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Self, TypedDict, Unpack, overload

import numpy as np
from numpy.typing import NDArray

from media.media_types import HEAD_BYTES, sniff
from service.containers import read_npy
from service.result import MSGPACK, NPY, EncodeMeta, EncodeResult
from service.transport import Call, ServiceError, Transport
from service.types import ModelCard, Want
from service.wire import pack, pack_tensor

__all__ = ["Client", "DecodeOptions", "EncodeOptions", "EncodeResult", "ServiceError"]


class EncodeOptions(TypedDict, total=False):
    """Options that turn media into the pixels to encode; what is left out is the service's default.

    model: id of a bundle. output: tokens, latents or both, for encode. size: "128" or "96x128" (height x width).
    fit: how the picture fills that size. frames: how many to keep, chosen by sampling and stride.
    start_s, end_s: part of the clip, seconds. animated: whether an animated picture is a clip.
    """

    model: str
    output: Want
    size: str
    fit: Literal["cover", "contain", "stretch"]
    frames: int
    sampling: Literal["first", "uniform", "stride"]
    stride: int
    start_s: float
    end_s: float
    animated: bool


class DecodeOptions(TypedDict, total=False):
    """Options of the pixels to decode; what is left out comes with the tokens.

    model: id of a bundle. frames, height, width: size in pixels to crop to. fps: frames per second of a clip.
    quality: 1 to 100 for lossy pictures.
    """

    model: str
    frames: int
    height: int
    width: int
    fps: float
    quality: int


class Client:
    """A connection to the service; safe to share between threads.

    Args:
        base_url: where the service listens.
        timeout: seconds without a byte of the answer before a call is given up.
        retries: how often a call is tried again after a broken connection or a passing refusal; all calls are pure.
        sleep: how to wait between attempts, seconds.
    """

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8000",
        *,
        timeout: float = 75.0,
        retries: int = 4,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._transport = Transport(base_url, timeout, retries, sleep)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def encode(self, media: bytes | Path | NDArray[np.uint8], **options: Unpack[EncodeOptions]) -> EncodeResult:
        """Encode a picture or a clip.

        Args:
            media: the bytes of a file, a file (read in pieces), or uint8 RGB pixels (H, W, 3) or (T, H, W, 3).
            options: see `EncodeOptions`.

        Raises:
            ServiceError: with the service's problem document.
        """
        answer = self._transport.send(_media_call("/encode", media, dict(options), MSGPACK))
        return EncodeResult.load(answer.content, MSGPACK)

    @overload
    def decode(
        self,
        codes: EncodeResult | NDArray[Any],
        *,
        bundle: str | None = None,
        accept: None = None,
        **options: Unpack[DecodeOptions],
    ) -> NDArray[np.uint8]: ...

    @overload
    def decode(
        self,
        codes: EncodeResult | NDArray[Any],
        *,
        bundle: str | None = None,
        accept: str,
        **options: Unpack[DecodeOptions],
    ) -> bytes: ...

    def decode(
        self,
        codes: EncodeResult | NDArray[Any],
        *,
        bundle: str | None = None,
        accept: str | None = None,
        **options: Unpack[DecodeOptions],
    ) -> NDArray[np.uint8] | bytes:
        """Decode tokens or latents.

        Args:
            codes: what `encode` returned, or tokens int (t, h, w), or latents float (t, h, w, c).
            bundle: hash of the bundle that made a bare array of codes; a result carries its own.
            accept: a media type such as "image/png" or "video/mp4", whose bytes are returned; None for pixels,
                uint8 RGB (T, H, W, 3).
            options: see `DecodeOptions`.

        Raises:
            ServiceError: with the service's problem document.
            ProblemError: the array has another shape or type.
        """
        result = codes if isinstance(codes, EncodeResult) else _bare(codes, bundle)
        headers = {"Content-Type": MSGPACK, "Accept": accept or NPY}
        answer = self._transport.send(Call("POST", "/decode", dict(options), headers, result.dump(MSGPACK)))
        return answer.content if accept else read_npy(answer.content, "pixels")

    @overload
    def reconstruct(
        self, media: bytes | Path | NDArray[np.uint8], *, accept: None = None, **options: Unpack[EncodeOptions]
    ) -> NDArray[np.uint8]: ...

    @overload
    def reconstruct(
        self, media: bytes | Path | NDArray[np.uint8], *, accept: str, **options: Unpack[EncodeOptions]
    ) -> bytes: ...

    def reconstruct(
        self, media: bytes | Path | NDArray[np.uint8], *, accept: str | None = None, **options: Unpack[EncodeOptions]
    ) -> NDArray[np.uint8] | bytes:
        """Encode and decode in one call.

        Args:
            media: as for `encode`.
            accept: as for `decode`.
            options: see `EncodeOptions`.

        Raises:
            ServiceError: with the service's problem document.
        """
        answer = self._transport.send(_media_call("/reconstruct", media, dict(options), accept or NPY))
        return answer.content if accept else read_npy(answer.content, "pixels")

    def models(self) -> list[ModelCard]:
        """The bundles that are served, the default one first."""
        cards = self._transport.send(Call("GET", "/models")).json()["models"]
        return [ModelCard(**card) for card in cards]

    def limits(self) -> dict[str, Any]:
        """Every limit in force."""
        limits: dict[str, Any] = self._transport.send(Call("GET", "/limits")).json()
        return limits

    def ready(self) -> bool:
        """Return whether the service answers now; asked once, without retries."""
        try:
            self._transport.send(Call("GET", "/health/ready"), retries=0)
        except ServiceError:
            return False
        return True


def _media_call(path: str, media: bytes | Path | NDArray[np.uint8], options: dict[str, Any], accept: str) -> Call:
    if isinstance(media, np.ndarray):
        body = pack({"array": pack_tensor(media), "options": options})
        return Call("POST", path, {}, {"Content-Type": MSGPACK, "Accept": accept}, body)
    if isinstance(media, Path):
        with media.open("rb") as file:
            head = file.read(HEAD_BYTES)
    else:
        head = media[:HEAD_BYTES]
    headers = {"Content-Type": sniff(head) or "application/octet-stream", "Accept": accept}
    return Call("POST", path, options, headers, media)


def _bare(codes: NDArray[Any], bundle: str | None) -> EncodeResult:
    vectors = codes.dtype.kind == "f"
    return EncodeResult(EncodeMeta(bundle=bundle), None if vectors else codes, codes if vectors else None)
