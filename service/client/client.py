"""The blocking client."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, Self, Unpack, overload

import httpx
import numpy as np
from numpy.typing import NDArray

from service.client import calls
from service.client.calls import LOCAL_URL, Call, ConnectionOptions, DecodeOptions, EncodeOptions, ReconstructOptions
from service.client.media import Codes, Media
from service.client.retries import RetryRule, ServiceError
from service.formats.media_types import MSGPACK, NPY
from service.formats.result import EncodeResult
from service.types import ModelCard


class Client:
    """A connection to the service; safe to share between threads.

    Args:
        base_url: where the service listens.
        sleep: how to wait between attempts, seconds.
        options: see `ConnectionOptions`.
    """

    def __init__(
        self,
        base_url: str = LOCAL_URL,
        *,
        sleep: Callable[[float], None] = time.sleep,
        **options: Unpack[ConnectionOptions],
    ) -> None:
        self._sleep = sleep
        self._rule, arguments = calls.connection(base_url, **options)
        self._http = httpx.Client(**arguments)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def encode(self, media: Media, **options: Unpack[EncodeOptions]) -> EncodeResult:
        """Encode a picture or a clip.

        Args:
            media: a path (the file is read in pieces); the bytes of a file; a file open in binary mode; a PIL picture;
                or uint8 RGB pixels (H, W, 3) or (T, H, W, 3), as an array or a tensor, which are encoded as they are.
            options: see `EncodeOptions`.

        Raises:
            ServiceError: with the service's problem document.
            TypeError, ValueError: the media is not one of these; the sentence says what to do.
        """
        return calls.result_of(self._send(calls.media_call("/encode", media, options, MSGPACK)))

    @overload
    def decode(
        self, codes: Codes, *, bundle: str | None = None, accept: None = None, **options: Unpack[DecodeOptions]
    ) -> NDArray[np.uint8]: ...

    @overload
    def decode(
        self, codes: Codes, *, bundle: str | None = None, accept: str, **options: Unpack[DecodeOptions]
    ) -> bytes: ...

    def decode(
        self, codes: Codes, *, bundle: str | None = None, accept: str | None = None, **options: Unpack[DecodeOptions]
    ) -> NDArray[np.uint8] | bytes:
        """Decode tokens or latents.

        Args:
            codes: the result of `encode`, or tokens int (t, h, w), or latents float (t, h, w, c), array or tensor.
            bundle: hash of the bundle that made a bare array of codes; a result carries its own.
            accept: a media type such as "image/png" or "video/mp4", whose bytes are returned; None for pixels,
                uint8 RGB (T, H, W, 3).
            options: see `DecodeOptions`.

        Raises:
            ServiceError: with the service's problem document.
            TypeError, ProblemError: the array has another type or shape.
        """
        response = self._send(calls.decode_call(codes, bundle, options, accept or NPY))
        return response.content if accept else calls.pixels_of(response)

    @overload
    def reconstruct(
        self, media: Media, *, accept: None = None, **options: Unpack[ReconstructOptions]
    ) -> NDArray[np.uint8]: ...

    @overload
    def reconstruct(self, media: Media, *, accept: str, **options: Unpack[ReconstructOptions]) -> bytes: ...

    def reconstruct(
        self, media: Media, *, accept: str | None = None, **options: Unpack[ReconstructOptions]
    ) -> NDArray[np.uint8] | bytes:
        """Encode and decode in one call.

        Args:
            media: as for `encode`.
            accept: as for `decode`.
            options: see `ReconstructOptions`.

        Raises:
            ServiceError: with the service's problem document.
            TypeError, ValueError: the media is not one of these; the sentence says what to do.
        """
        response = self._send(calls.media_call("/reconstruct", media, options, accept or NPY))
        return response.content if accept else calls.pixels_of(response)

    def models(self) -> list[ModelCard]:
        """Return the bundles that are served, the default one first."""
        return calls.cards_of(self._send(calls.MODELS))

    def limits(self) -> dict[str, Any]:
        """Return every limit in force."""
        limits: dict[str, Any] = self._send(calls.LIMITS).json()
        return limits

    def ready(self) -> bool:
        """Return whether the service answers now; asked once, without retries."""
        try:
            self._send(calls.READY, RetryRule(0))
        except ServiceError:
            return False
        return True

    def _send(self, call: Call, rule: RetryRule | None = None) -> httpx.Response:
        for attempt in count():
            outcome: httpx.Response | httpx.HTTPError
            try:
                outcome = self._http.request(**call.arguments(), content=_content(call.body))
            except httpx.HTTPError as error:
                outcome = error
            else:
                if outcome.is_success:
                    return outcome
            self._sleep((rule or self._rule).wait(attempt, outcome))
        raise AssertionError("The rule ends the loop.")


def _content(body: bytes | Path | None) -> bytes | Iterator[bytes] | None:
    return _pieces(body) if isinstance(body, Path) else body


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(calls.READ_BYTES):
            yield piece
