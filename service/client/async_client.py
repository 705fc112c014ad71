"""The asynchronous client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Any, Self, Unpack, overload

import httpx
import numpy as np
from numpy.typing import NDArray

from service.client.calls import (
    LIMITS,
    MODELS,
    READ_BYTES,
    READY,
    Call,
    DecodeOptions,
    EncodeOptions,
    ReconstructOptions,
    cards_of,
    decode_call,
    media_call,
    pixels_of,
    result_of,
    timeouts,
)
from service.client.media import Codes, Media
from service.client.retries import RetryRule, ServiceError
from service.formats.media_types import MSGPACK, NPY
from service.formats.result import EncodeResult
from service.types import ModelCard


class AsyncClient:
    """A connection to the service for one event loop; calls may run at the same time.

    Args:
        base_url, headers, timeout, retries: as for `Client`.
        sleep: how to wait between attempts, seconds.
    """

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8000",
        *,
        headers: Mapping[str, str] | None = None,
        timeout: float = 75.0,
        retries: int = 4,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._rule, self._sleep = RetryRule(retries), sleep
        self._http = httpx.AsyncClient(base_url=base_url, headers=headers, timeout=timeouts(timeout))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def encode(self, media: Media, **options: Unpack[EncodeOptions]) -> EncodeResult:
        """Encode a picture or a clip; see `Client.encode`."""
        call = await asyncio.to_thread(media_call, "/encode", media, options, MSGPACK)
        return result_of(await self._send(call))

    @overload
    async def decode(
        self, codes: Codes, *, bundle: str | None = None, accept: None = None, **options: Unpack[DecodeOptions]
    ) -> NDArray[np.uint8]: ...

    @overload
    async def decode(
        self, codes: Codes, *, bundle: str | None = None, accept: str, **options: Unpack[DecodeOptions]
    ) -> bytes: ...

    async def decode(
        self, codes: Codes, *, bundle: str | None = None, accept: str | None = None, **options: Unpack[DecodeOptions]
    ) -> NDArray[np.uint8] | bytes:
        """Decode tokens or latents; see `Client.decode`."""
        call = await asyncio.to_thread(decode_call, codes, bundle, options, accept or NPY)
        response = await self._send(call)
        return response.content if accept else pixels_of(response)

    @overload
    async def reconstruct(
        self, media: Media, *, accept: None = None, **options: Unpack[ReconstructOptions]
    ) -> NDArray[np.uint8]: ...

    @overload
    async def reconstruct(self, media: Media, *, accept: str, **options: Unpack[ReconstructOptions]) -> bytes: ...

    async def reconstruct(
        self, media: Media, *, accept: str | None = None, **options: Unpack[ReconstructOptions]
    ) -> NDArray[np.uint8] | bytes:
        """Encode and decode in one call; see `Client.reconstruct`."""
        call = await asyncio.to_thread(media_call, "/reconstruct", media, options, accept or NPY)
        response = await self._send(call)
        return response.content if accept else pixels_of(response)

    async def models(self) -> list[ModelCard]:
        """Return the bundles that are served, the default one first."""
        return cards_of(await self._send(MODELS))

    async def limits(self) -> dict[str, Any]:
        """Return every limit in force."""
        limits: dict[str, Any] = (await self._send(LIMITS)).json()
        return limits

    async def ready(self) -> bool:
        """Return whether the service answers now; asked once, without retries."""
        try:
            await self._send(READY, RetryRule(0))
        except ServiceError:
            return False
        return True

    async def _send(self, call: Call, rule: RetryRule | None = None) -> httpx.Response:
        for attempt in count():
            outcome: httpx.Response | httpx.HTTPError
            try:
                outcome = await self._http.request(**call.arguments(), content=_content(call.body))
            except httpx.HTTPError as error:
                outcome = error
            else:
                if outcome.is_success:
                    return outcome
            await self._sleep((rule or self._rule).wait(attempt, outcome))
        raise AssertionError("unreachable: the rule ends the loop")


def _content(body: bytes | Path | None) -> bytes | AsyncIterator[bytes] | None:
    return _pieces(body) if isinstance(body, Path) else body


async def _pieces(path: Path) -> AsyncIterator[bytes]:
    with await asyncio.to_thread(path.open, "rb") as file:
        while piece := await asyncio.to_thread(file.read, READ_BYTES):
            yield piece
