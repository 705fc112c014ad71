"""One request of a tokenizer route while it is worked on."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from service.api.caller import CallerBackend, CallerGenerators, CallerMedia, caller_of, owner_of
from service.api.deadline import Deadline
from service.api.negotiation import accepts_by_name, require
from service.api.replay import idempotency_key, prefers_async
from service.api.services import Services
from service.formats.codes import codes_offers
from service.formats.media_types import EVENT_STREAM
from service.formats.pixels import amount, pixel_offers
from service.keys import Budget
from service.operations.clip import PixelResult
from service.operations.generate_plan import GeneratePlan
from service.trace import note_stage
from service.types import GeneratorCard, ModelCard, Timing, Want


class Exchange:
    """A request whose body has been read, and the services that its work may use.

    Args:
        request: the request.
        services: of the application.
        parse_ms: time spent on parsing the body, milliseconds.
        deadline: of the request.

    Attributes:
        id: of the request.
        started: when its first byte came, on `time.perf_counter`.
        accept: the `Accept` header, or None.
        media_type: of the answer, once it is chosen.
        chunk_positions: latent positions of a chunk of a stream.
        services: of the application.
    """

    def __init__(self, request: Request, services: Services, parse_ms: float, deadline: Deadline) -> None:
        budget: Budget | None = getattr(request.state, "budget", None)
        self._notes: dict[str, Any] = request.state.notes
        self.backend = CallerBackend(services.backend, deadline, budget, self._notes)
        self.generators = CallerGenerators(services.generators, deadline, budget, self._notes)
        self._budget = budget
        self.media, self.limits = CallerMedia(services.media, caller_of(request)), services.settings.limits
        self.deadline = deadline
        self.accept: str | None = request.headers.get("accept")
        self.id: str = request.state.request_id
        self.started: float = request.state.started
        self.parse_ms = parse_ms
        self.services = services
        self.media_type = ""
        self.chunk_positions = services.settings.stream_chunk_tokens
        self._card: ModelCard | GeneratorCard | None = None
        self._request = request

    @property
    def wants_events(self) -> bool:
        """Return whether the answer is to be a stream of events."""
        return accepts_by_name(self.accept, EVENT_STREAM)

    @property
    def wants_async(self) -> bool:
        """Return whether the caller prefers a job to an answer (RFC 7240)."""
        return prefers_async(self._request)

    @property
    def idempotency_key(self) -> str | None:
        """Return the caller's name of this request, or None; a malformed one raises `bad-header`."""
        return idempotency_key(self._request)

    @property
    def submission(self) -> str | None:
        """Return HAProxy's name of this request, which it keeps when it is sent to another replica; None without it."""
        return self._request.headers.get("X-Submission")

    @property
    def owner(self) -> str:
        """Return the name of the caller's key, which owns its jobs, "" where there are no keys."""
        return owner_of(self._request)

    def charge(self, positions: int) -> None:
        """Charge work to the caller that begins after the answer."""
        if self._budget is not None:
            self._budget.left -= positions

    def use(self, card: ModelCard | GeneratorCard) -> None:
        """Note the bundle for the log."""
        self._notes["model"] = card.id
        self._card = card

    def note_samples(self, plan: GeneratePlan) -> None:
        """Note the frames of samples for the log, in place of those that are encoded and decoded for them."""
        self.backend.counts_frames = False
        self._notes["frames"] = plan.samples * plan.size[0]

    def note(self, timing: Timing, **milliseconds: float) -> None:
        """Note for the log where the time went.

        Args:
            timing: of the tokenizer tier or of the generators.
            milliseconds: by the name of another stage.
        """
        spent = {"queue": timing.queue_ms, "compute": timing.compute_ms} | milliseconds
        self._notes["batch"] = timing.batch_size
        self._notes |= {f"{stage}_ms": round(duration, 2) for stage, duration in spent.items()}

    def note_items(self, timings: Collection[Timing], **milliseconds: float) -> None:
        """Note for the log where the time of many items went; those of one batch have one `compute_ms`."""
        if timings:
            queue_ms = max(timing.queue_ms for timing in timings)
            compute_ms = sum({timing.compute_ms for timing in timings})
            self.note(Timing(queue_ms, compute_ms, max(timing.batch_size for timing in timings)), **milliseconds)

    def choose(self, offers: Sequence[str], answer: str) -> None:
        """Choose the media type of the answer.

        Args:
            offers: what it can be, the default first.
            answer: what it is, for a refusal.

        Raises:
            ProblemError: `not-acceptable`.
        """
        self.media_type = require(self.accept, offers, answer)

    def choose_pixels(self, frames: int) -> None:
        """Choose the media type of an answer of that many frames; errors as `choose`."""
        self.choose(pixel_offers(frames), amount(frames))

    def choose_codes(self, want: Want, positions: int | None = None) -> None:
        """Choose the media type of an answer of codes; errors as `choose`.

        Args:
            want: the outputs.
            positions: how many latent positions they have, or None if that is not known yet.
        """
        in_json = positions is None or positions <= self.limits.json_tokens
        answer = "The answer" if in_json else f"An answer of more than {self.limits.json_tokens} positions"
        self.choose(codes_offers(want, in_json), answer)

    async def respond_pixels(self, result: PixelResult, quality: int | None, decode_ms: float) -> Response:
        """Return the answer that consists of pixels.

        Args:
            result: the pixels.
            quality: 1 to 100 for lossy pictures, or None for the default.
            decode_ms: as for `respond`.
        """
        rendering = time.perf_counter()
        data = await result.render(self.media, self.media_type, quality)
        return self.respond(data, result.card, decode_ms, result.timing, rendering)

    def headers(self, card: ModelCard | GeneratorCard, seed: int | None = None) -> dict[str, str]:
        """Return the headers of an answer that a bundle made, by a seed if it drew numbers."""
        drawn = {} if seed is None else {"X-Omnitok-Seed": str(seed)}
        return {"Vary": "Accept", "X-Omnitok-Model": card.id, "X-Omnitok-Bundle": card.hash} | drawn

    def used_headers(self) -> dict[str, str]:
        """Return the headers of an answer by the bundle that `use` noted."""
        assert self._card is not None
        return self.headers(self._card)

    def respond(
        self,
        data: bytes,
        card: ModelCard | GeneratorCard,
        decode_ms: float,
        timing: Timing,
        rendering: float,
        seed: int | None = None,
    ) -> Response:
        """Return the answer.

        Args:
            data: its body, of the media type that was chosen.
            card: the bundle that did the work.
            decode_ms: time spent on the request's media or codes, milliseconds.
            timing: of the tokenizer tier.
            rendering: when the tokenizer had answered, on `time.perf_counter`.
            seed: of a generator's samples.
        """
        render_ms = 1000 * (time.perf_counter() - rendering)
        note_stage("render", rendering, bytes=len(data))
        self.note(timing, decode=decode_ms, render=render_ms)
        spent = {"decode": decode_ms, "queue": timing.queue_ms, "compute": timing.compute_ms, "render": render_ms}
        timings = ", ".join(f"{name};dur={milliseconds:.2f}" for name, milliseconds in spent.items())
        headers = self.headers(card, seed) | {"Server-Timing": timings}
        return Response(data, headers=headers, media_type=self.media_type)
