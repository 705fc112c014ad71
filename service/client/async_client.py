"""The asynchronous client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Self, Unpack, overload

import httpx
import numpy as np
from numpy.typing import NDArray

from service.client import bulk, calls, generation, jobs
from service.client.bulk import Outcome
from service.client.calls import LOCAL_URL, Call, ConnectionOptions, DecodeOptions, EncodeOptions, ReconstructOptions
from service.client.duplex import DuplexTransport, is_proxied
from service.client.generation import EventReader, GenerateEvent, GenerateOptions, Prefix
from service.client.jobs import Job, JobEvent, JobEventReader
from service.client.media import Body, Codes, Media
from service.client.retries import BrokenStreamError, RetryRule, ServiceError, stream_failure
from service.client.streams import (
    AsyncStream,
    CodeParts,
    StreamDecodeOptions,
    Video,
    decode_stream_call,
    encode_stream_call,
)
from service.formats.media_types import MSGPACK, NPY
from service.formats.result import EncodeResult
from service.formats.samples import Samples
from service.types import GeneratorCard, ModelCard

CALL_INLINE_BYTES = 2**20  # of the data of a call that is made at once


class AsyncClient:
    """A connection to the service for one event loop; calls may run at the same time.

    Args:
        base_url, sleep, options: as for `Client`.
    """

    def __init__(
        self,
        base_url: str = LOCAL_URL,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        **options: Unpack[ConnectionOptions],
    ) -> None:
        self._again = partial(type(self), base_url, sleep=sleep, **options)
        self._sleep = sleep
        self._rule, self._connection = calls.connection(base_url, **options)
        transport = None if is_proxied(base_url) else DuplexTransport()  # httpx's own knows proxies
        self._http = httpx.AsyncClient(**self._connection, transport=transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """Let another process have a client of its own; see `Client`."""
        return self._again, ()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def encode(self, media: Media, **options: Unpack[EncodeOptions]) -> EncodeResult:
        """Encode a picture or a clip; see `Client.encode`."""
        call = await _made(calls.media_call, media, "/encode", media, options, MSGPACK)
        return calls.result_of(await self._send(call))

    async def encode_many(self, media: Iterable[Media], **options: Unpack[EncodeOptions]) -> list[Outcome]:
        """Encode pictures and clips, many in one call; see `Client.encode_many`."""
        outcomes: list[Outcome] = []
        parts = bulk.encode_calls(media, options)
        while (part := await asyncio.to_thread(next, parts, None)) is not None:
            bodies, call = part
            found: list[Outcome | None] = [None] if call is None else bulk.outcomes_of(await self._send(call))
            for body, outcome in zip(bodies, found, strict=True):
                outcomes.append(await self._encode_alone(body, options) if outcome is None else outcome)
        return outcomes

    async def _encode_alone(self, body: Body, options: EncodeOptions) -> Outcome:
        try:
            return await self.encode(body, **options)
        except ServiceError as error:
            return error

    def encode_stream(self, video: Video, **options: Unpack[EncodeOptions]) -> AsyncStream:
        """Encode a video of any length while it is sent; see `Client.encode_stream`."""
        return AsyncStream(self._connection, encode_stream_call(video, options), self._rule, self._sleep)

    def decode_stream(
        self,
        codes: CodeParts,
        *,
        bundle: str | None = None,
        frames: int | None = None,
        **options: Unpack[StreamDecodeOptions],
    ) -> AsyncStream:
        """Decode tokens or latents of any length while they are sent; see `Client.decode_stream`."""
        call = decode_stream_call(codes, bundle, frames, options)
        return AsyncStream(self._connection, call, self._rule, self._sleep)

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
        call = await _made(calls.decode_call, codes, codes, bundle, options, accept or NPY)
        response = await self._send(call)
        return response.content if accept else calls.pixels_of(response)

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
        call = await _made(calls.media_call, media, "/reconstruct", media, options, accept or NPY)
        response = await self._send(call)
        return response.content if accept else calls.pixels_of(response)

    @overload
    async def generate(
        self,
        class_: int | str | None = None,
        *,
        prefix: Prefix | None = None,
        accept: None = None,
        **options: Unpack[GenerateOptions],
    ) -> Samples: ...

    @overload
    async def generate(
        self,
        class_: int | str | None = None,
        *,
        prefix: Prefix | None = None,
        accept: str,
        **options: Unpack[GenerateOptions],
    ) -> list[bytes]: ...

    async def generate(
        self,
        class_: int | str | None = None,
        *,
        prefix: Prefix | None = None,
        accept: str | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Samples | list[bytes]:
        """Make pictures or clips; see `Client.generate`."""
        for attempt in count():
            try:
                stream = self.generate_events(class_, prefix=prefix, accept=accept, **options)
                events = [event async for event in stream]
                return generation.files_of(events) if accept else generation.samples_of(events)
            except BrokenStreamError as error:
                await self._sleep(self._rule.again(attempt, error))
        raise AssertionError("The rule ends the loop.")

    async def generate_events(
        self,
        class_: int | str | None = None,
        *,
        prefix: Prefix | None = None,
        accept: str | None = None,
        **options: Unpack[GenerateOptions],
    ) -> AsyncIterator[GenerateEvent]:
        """Make pictures or clips, and yield what happens; see `Client.generate_events`."""
        call = await asyncio.to_thread(
            generation.generate_call, class_, prefix, options, generation.accepted(accept, options)
        )
        reader = EventReader()
        async with self._stream(call) as response:
            async for line in response.aiter_lines():
                if (event := reader.feed(line)) is not None:
                    yield event
        reader.close()

    async def submit(
        self,
        class_: int | str | None = None,
        *,
        prefix: Prefix | None = None,
        accept: str | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Job:
        """Submit a generation as a job; see `Client.submit`."""
        return jobs.job_of(await self._send(await asyncio.to_thread(jobs.submit_call, class_, prefix, options, accept)))

    async def job(self, job: Job | str) -> Job:
        """Return the present state of a job, given as such or by id."""
        return jobs.job_of(await self._send(jobs.job_call(job)))

    async def jobs(self, limit: int = 20, after: Job | str | None = None) -> list[Job]:
        """Return the caller's jobs, the newest first, from the one behind `after` on."""
        return jobs.jobs_of(await self._send(jobs.jobs_call(limit, after)))

    async def job_events(self, job: Job | str) -> AsyncIterator[JobEvent]:
        """Yield the events of a job until it is finished; a stream that ends or breaks is resumed."""
        reader = JobEventReader()
        while True:
            try:
                async with self._stream(jobs.events_call(job, reader.after)) as response:
                    if response.status_code == calls.NOTHING_FOLLOWS:
                        return
                    async for line in response.aiter_lines():
                        if (event := reader.feed(line)) is not None:
                            yield event
                            if event.is_last:
                                return
            except ServiceError as error:
                reader.broke(error, self._rule.retries)
                await self._sleep(calls.RESUME_SECONDS)

    async def wait(self, job: Job | str) -> Job:
        """Return a job once it is completed.

        Raises:
            ServiceError: it failed or was cancelled, or the service refuses.
        """
        async for _ in self.job_events(job):
            pass
        return jobs.completed(await self.job(job))

    async def content(self, job: Job | str) -> bytes:
        """Return what a completed job made."""
        return (await self._send(jobs.job_call(job, "/content"))).content

    async def cancel(self, job: Job | str) -> Job:
        """Cancel a job, or forget one that is finished; return its last state."""
        return jobs.job_of(await self._send(jobs.job_call(job, method="DELETE")))

    async def classes(self, query: str = "", model: str | None = None) -> dict[int, str]:
        """Return the classes of a generator, names by id.

        Args:
            query: a part of the name, in any case.
            model: id of a generator; None for the default one.
        """
        return generation.classes_of(await self._send(generation.classes_call(query, model)))

    async def generators(self) -> list[GeneratorCard]:
        """Return the generators that are served, the default one first, without the names of their classes."""
        return generation.generator_cards_of(await self._send(calls.MODELS))

    async def models(self) -> list[ModelCard]:
        """Return the bundles that are served, the default one first."""
        return calls.cards_of(await self._send(calls.MODELS))

    async def limits(self) -> dict[str, Any]:
        """Return every limit in force."""
        limits: dict[str, Any] = (await self._send(calls.LIMITS)).json()
        return limits

    async def ready(self) -> bool:
        """Return whether the service answers now; asked once, without retries."""
        try:
            await self._send(calls.READY, RetryRule(0))
        except ServiceError:
            return False
        return True

    @asynccontextmanager
    async def _stream(self, call: Call) -> AsyncIterator[httpx.Response]:
        response = await self._send(call, stream=True)
        try:
            yield response
        except httpx.HTTPError as error:
            raise stream_failure(error) from error
        finally:
            await response.aclose()

    async def _send(self, call: Call, rule: RetryRule | None = None, stream: bool = False) -> httpx.Response:
        for attempt in count():
            outcome: httpx.Response | httpx.HTTPError
            try:
                request = self._http.build_request(**call.arguments(), content=_content(call.body))
                outcome = await self._http.send(request, stream=stream)
                if outcome.is_success:
                    return outcome
                await outcome.aread()
            except httpx.HTTPError as error:
                outcome = error
            await self._sleep((rule or self._rule).wait(attempt, outcome))
        raise AssertionError("The rule ends the loop.")


async def _made(make: Callable[..., Call], given: object, *arguments: Any) -> Call:
    """Return a call; what reads files or copies much is made on a thread, which costs as much as a small call."""
    array = given.tokens if isinstance(given, EncodeResult) else given
    size = (
        len(given) if isinstance(given, bytes) else array.nbytes if isinstance(array, np.ndarray) else CALL_INLINE_BYTES
    )
    return make(*arguments) if size < CALL_INLINE_BYTES else await asyncio.to_thread(make, *arguments)


def _content(body: bytes | Path | None) -> bytes | AsyncIterator[bytes] | None:
    return _pieces(body) if isinstance(body, Path) else body


async def _pieces(path: Path) -> AsyncIterator[bytes]:
    with await asyncio.to_thread(path.open, "rb") as file:
        while piece := await asyncio.to_thread(file.read, calls.READ_BYTES):
            yield piece
