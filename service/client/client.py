"""The blocking client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
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
from service.client.generation import EventReader, GenerateEvent, GenerateOptions, Prefix
from service.client.jobs import Job, JobEvent, JobEventReader
from service.client.media import Body, Codes, Media
from service.client.retries import RetryRule, ServiceError, stream_failure
from service.client.streams import (
    AsyncStream,
    CodeParts,
    Stream,
    StreamDecodeOptions,
    Video,
    decode_stream_call,
    encode_stream_call,
)
from service.formats.media_types import MSGPACK, NPY
from service.formats.result import EncodeResult
from service.formats.samples import Samples
from service.types import GeneratorCard, ModelCard


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
        self._again = partial(type(self), base_url, sleep=sleep, **options)
        self._sleep = sleep
        self._rule, self._connection = calls.connection(base_url, **options)
        self._http = httpx.Client(**self._connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """Let another process have a client of its own with the same options, its key included."""
        return self._again, ()

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

    def encode_many(self, media: Iterable[Media], **options: Unpack[EncodeOptions]) -> list[Outcome]:
        """Encode pictures and clips, many in one call; return the result of each, or the error that `encode` raises.

        Args:
            media: of the kinds that `encode` takes; what is small should travel so.
            options: of all of them; see `EncodeOptions`.

        Raises:
            ServiceError: the service refuses all of them, or cannot be reached.
            TypeError, ValueError: one of the media is of another kind.
        """
        outcomes: list[Outcome] = []
        for bodies, call in bulk.encode_calls(media, options):
            found: list[Outcome | None] = [None] if call is None else bulk.outcomes_of(self._send(call))
            for body, outcome in zip(bodies, found, strict=True):
                outcomes.append(self._encode_alone(body, options) if outcome is None else outcome)
        return outcomes

    def _encode_alone(self, body: Body, options: EncodeOptions) -> Outcome:
        try:
            return self.encode(body, **options)
        except ServiceError as error:
            return error

    def encode_stream(self, video: Video, **options: Unpack[EncodeOptions]) -> Stream:
        """Encode a video of any length while it is sent.

        Args:
            video: a path; the bytes of a file; a file open in binary mode; or an iterable of its pieces. Paths and
                bytes can be sent again, so that a call that broke off is taken up where it was.
            options: see `EncodeOptions`; what only a whole file allows is refused.

        Returns:
            Tokens (t, h, w), or latents (t, h, w, c) of a VAE, part by part; together they are those of the video.
            `begin` and `end` of it hold their descriptions. Iterating raises `ServiceError`.
        """
        call = encode_stream_call(video, options)
        return Stream(lambda: AsyncStream(self._connection, call, self._rule, self._wait))

    def decode_stream(
        self,
        codes: CodeParts,
        *,
        bundle: str | None = None,
        frames: int | None = None,
        **options: Unpack[StreamDecodeOptions],
    ) -> Stream:
        """Decode tokens or latents of any length while they are sent.

        Args:
            codes: a result; or parts of one, tokens (t, h, w) or latents (t, h, w, c). Those of `encode_stream` bring
                their description along.
            bundle: hash of the bundle that made them, if they do not bring it.
            frames: of the whole clip, if the last ones are padding.
            options: see `StreamDecodeOptions`.

        Returns:
            uint8 RGB pixels (n, H, W, 3), part by part. Iterating raises `ServiceError`.
        """
        call = decode_stream_call(codes, bundle, frames, options)
        return Stream(lambda: AsyncStream(self._connection, call, self._rule, self._wait))

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

    @overload
    def generate(
        self,
        class_: int | str | None = None,
        *,
        prefix: Prefix | None = None,
        accept: None = None,
        **options: Unpack[GenerateOptions],
    ) -> Samples: ...

    @overload
    def generate(
        self,
        class_: int | str | None = None,
        *,
        prefix: Prefix | None = None,
        accept: str,
        **options: Unpack[GenerateOptions],
    ) -> list[bytes]: ...

    def generate(
        self,
        class_: int | str | None = None,
        *,
        prefix: Prefix | None = None,
        accept: str | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Samples | list[bytes]:
        """Make pictures or clips.

        Args:
            class_: id or name of a class, as `classes` lists them; None for a sample without a class.
            prefix: frames to continue: media as for `encode`, or the result of `encode` or of `generate`.
            accept: a media type such as "image/png" or "video/mp4"; the pixels of each sample are returned as a file
                of it. None for arrays.
            options: see `GenerateOptions`.

        Raises:
            ServiceError: with the service's problem document.
            TypeError, ValueError: the prefix is not one of these, or the options contradict each other.
        """
        once = partial(self.generate_events, class_, prefix=prefix, accept=accept, **options)
        events = generation.collected(once, self._rule, self._sleep)
        return generation.files_of(events) if accept else generation.samples_of(events)

    def generate_events(
        self,
        class_: int | str | None = None,
        *,
        prefix: Prefix | None = None,
        accept: str | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Iterator[GenerateEvent]:
        """Make pictures or clips, and yield what happens until they are done; the call ends when the iterator does.

        Args:
            class_, prefix, options: as for `generate`.
            accept: media type of the pixels in results, arrays in npy by default.

        Raises:
            ServiceError: with the service's problem document.
            TypeError, ValueError: as `generate`.
        """
        call = generation.generate_call(class_, prefix, options, generation.accepted(accept, options))
        reader = EventReader()
        with self._stream(call) as response:
            for line in response.iter_lines():
                if (event := reader.feed(line)) is not None:
                    yield event
        reader.close()

    def submit(
        self,
        class_: int | str | None = None,
        *,
        prefix: Prefix | None = None,
        accept: str | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Job:
        """Submit a generation as a job, which goes on without this client.

        Args:
            class_, prefix, options: as for `generate`.
            accept: media type of the content, such as "video/mp4"; None for what `read_arrays` reads, or `read_codes`
                where the output is tokens of one sample.

        Raises:
            ServiceError: with the service's problem document.
            TypeError, ValueError: as `generate`.
        """
        return jobs.job_of(self._send(jobs.submit_call(class_, prefix, options, accept)))

    def job(self, job: Job | str) -> Job:
        """Return the present state of a job, given as such or by id."""
        return jobs.job_of(self._send(jobs.job_call(job)))

    def jobs(self, limit: int = 20, after: Job | str | None = None) -> list[Job]:
        """Return the caller's jobs, the newest first, from the one behind `after` on."""
        return jobs.jobs_of(self._send(jobs.jobs_call(limit, after)))

    def job_events(self, job: Job | str) -> Iterator[JobEvent]:
        """Yield the events of a job until it is finished; a stream that ends or breaks is resumed."""
        reader = JobEventReader()
        while True:
            try:
                with self._stream(jobs.events_call(job, reader.after)) as response:
                    if response.status_code == calls.NOTHING_FOLLOWS:
                        return
                    for line in response.iter_lines():
                        if (event := reader.feed(line)) is not None:
                            yield event
                            if event.is_last:
                                return
            except ServiceError as error:
                reader.broke(error, self._rule.retries)
                self._sleep(calls.RESUME_SECONDS)

    def wait(self, job: Job | str) -> Job:
        """Return a job once it is completed.

        Raises:
            ServiceError: it failed or was cancelled, or the service refuses.
        """
        for _ in self.job_events(job):
            pass
        return jobs.completed(self.job(job))

    def content(self, job: Job | str) -> bytes:
        """Return what a completed job made."""
        return self._send(jobs.job_call(job, "/content")).content

    def cancel(self, job: Job | str) -> Job:
        """Cancel a job, or forget one that is finished; return its last state."""
        return jobs.job_of(self._send(jobs.job_call(job, method="DELETE")))

    def classes(self, query: str = "", model: str | None = None) -> dict[int, str]:
        """Return the classes of a generator, names by id.

        Args:
            query: a part of the name, in any case.
            model: id of a generator; None for the default one.
        """
        return generation.classes_of(self._send(generation.classes_call(query, model)))

    def generators(self) -> list[GeneratorCard]:
        """Return the generators that are served, the default one first, without the names of their classes."""
        return generation.generator_cards_of(self._send(calls.MODELS))

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

    async def _wait(self, seconds: float) -> None:
        await asyncio.to_thread(self._sleep, seconds)

    @contextmanager
    def _stream(self, call: Call) -> Iterator[httpx.Response]:
        response = self._send(call, stream=True)
        try:
            yield response
        except httpx.HTTPError as error:
            raise stream_failure(error) from error
        finally:
            response.close()

    def _send(self, call: Call, rule: RetryRule | None = None, stream: bool = False) -> httpx.Response:
        for attempt in count():
            outcome: httpx.Response | httpx.HTTPError
            try:
                content = calls.pieces_of(call.body) if isinstance(call.body, Path) else call.body
                request = self._http.build_request(**call.arguments(), content=content)
                outcome = self._http.send(request, stream=stream)
                if outcome.is_success:
                    return outcome
                outcome.read()
            except httpx.HTTPError as error:
                outcome = error
            self._sleep((rule or self._rule).wait(attempt, outcome))
        raise AssertionError("The rule ends the loop.")
