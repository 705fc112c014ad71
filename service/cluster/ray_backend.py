"""The tokenizer tier as an ingress replica sees it: over the link on its own node, and by a handle of Ray Serve."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from ray.serve.handle import DeploymentHandle

from media.limits import MIB
from service.chunks import ChunkInput, ChunkOutput, ClipState
from service.cluster.chunk_memory import Memory, PlacedOutput, outcome, place
from service.cluster.coalescer import Coalescer
from service.cluster.ray_environment import MESSAGE_OVERHEAD_BYTES, message_bytes
from service.cluster.remote import Remote, traceparent
from service.errors import ProblemError
from service.flow import NOBODY, Flow
from service.flow import current as current_flow
from service.link.client import LinkClient, NoTokenizerError
from service.metrics.http import IngressMetrics
from service.settings import Settings
from service.types import Decoded, Encoded, ModelCard, Op, Size, Want, encode_each

CALLS_PER_REPLICA = 2  # for each shape: one computes while the next arrives
CALL_BYTES = 16 * MIB  # of one call of many items


class HandleCall(NamedTuple):
    """One call of a tokenizer by a handle.

    Args:
        arguments: of the method of `Backend`.
        trace: the header `traceparent` of the request, or None.
        seconds: time left.
        flow: whose share it takes.
    """

    arguments: tuple[Any, ...]
    trace: str | None
    seconds: float
    flow: Flow = NOBODY


class _Call(NamedTuple):
    op: str
    arguments: tuple[Any, ...]
    trace: str | None
    deadline: float
    flow: Flow


class RayBackend(Remote):
    """The tokenizer tier; a `types.Backend`.

    Replicas of this node are asked over the link. Others are called by a handle, many items of one shape at a time.

    Args:
        handle, settings, metrics: as for `Remote`.
        link: to the replicas of this node, or None.
    """

    def __init__(
        self, handle: DeploymentHandle, settings: Settings, metrics: IngressMetrics, link: LinkClient | None = None
    ) -> None:
        super().__init__(handle, settings, metrics)
        self._link = link
        outstanding = CALLS_PER_REPLICA * (settings.max_tokenizer_replicas or settings.tokenizer_replicas)
        most = min(CALL_BYTES, message_bytes(settings.limits) - MESSAGE_OVERHEAD_BYTES)
        self._coalescer = Coalescer(self._send, outstanding, settings.max_batch_requests, most)

    @property
    def waiting(self) -> int:
        """Return the number of items that wait for a call by a handle."""
        return self._coalescer.waiting

    async def models(self) -> list[ModelCard]:
        """Return the bundles, the default one first; a living replica named them in the last few seconds."""
        linked = [] if self._link is None else self._link.cards
        return linked or await self._remembered_cards("models")

    async def codebook(self, model: str) -> NDArray[np.float32]:
        """Return the codes of a VQ bundle, from any replica."""
        codes: NDArray[np.float32] = await self._retry(
            lambda _: self._once("codebook", model), self._settings.request_seconds
        )
        return codes

    async def encode(self, model: str, pixels: NDArray[Any], want: Want, *, seconds: float | None = None) -> Encoded:
        """Encode uint8 RGB pixels (T, H, W, 3)."""
        return await self._call("encode", seconds, model, pixels, want)

    async def encode_many(
        self, model: str, clips: Sequence[NDArray[Any]], want: Want, *, seconds: float | None = None
    ) -> list[Encoded | ProblemError]:
        """Encode clips of one size, together over the link or else one by one; return the outcome of each."""
        left = self._settings.request_seconds if seconds is None else seconds
        clock = asyncio.get_running_loop().time
        deadline = clock() + left
        if self._link is not None and self._link.takes(model):
            outcomes = await self._link.encode_many(model, clips, want, seconds=left)
            lost = [n for n, outcome in enumerate(outcomes) if isinstance(outcome, NoTokenizerError)]
            self._metrics.called("link", len(clips) - len(lost))
            elsewhere = iter(await encode_each(self, model, [clips[n] for n in lost], want, deadline - clock()))
            return [next(elsewhere) if isinstance(outcome, NoTokenizerError) else outcome for outcome in outcomes]
        return await encode_each(self, model, clips, want, deadline - clock())

    async def decode(self, model: str, codes: NDArray[Any], size: Size, *, seconds: float | None = None) -> Decoded:
        """Decode tokens (t, h, w) or latents (t, h, w, c), cropped to `size`."""
        return await self._call("decode", seconds, model, codes, size)

    async def reconstruct(self, model: str, pixels: NDArray[Any], *, seconds: float | None = None) -> Decoded:
        """Encode and decode uint8 RGB pixels (T, H, W, 3)."""
        return await self._call("reconstruct", seconds, model, pixels)

    async def encode_chunk(self, model: str, chunk: ChunkInput, *, seconds: float | None = None) -> ChunkOutput:
        """Encode the next frames of a clip. Its state is in the call, so that any replica can do it, and again."""
        return await self._chunk("encode_chunk", seconds, model, chunk)

    async def decode_chunk(self, model: str, chunk: ChunkInput, *, seconds: float | None = None) -> ChunkOutput:
        """Decode the next latent frames of a clip."""
        return await self._chunk("decode_chunk", seconds, model, chunk)

    async def _call(self, op: Op, seconds: float | None, *arguments: Any) -> Any:
        model, array, *rest = arguments
        call = self._prepare(op, seconds, arguments)
        if self._link is not None and self._link.takes(model):
            try:
                answer = await getattr(self._link, op)(*arguments, seconds=self._left(call))
                self._metrics.called("link")
                return answer
            except NoTokenizerError:
                pass
        self._metrics.called("ray")
        size, attempts = 3 * math.prod(rest[0]) if op == "decode" else array.nbytes, itertools.count()

        def attempt(_: float) -> Awaitable[Any]:
            if next(attempts):  # alone: one of its company may be what ends replicas
                return self._alone(call)
            return self._coalescer.call((op, model, array.shape, array.dtype, *rest, call.flow.priority), call, size)

        return await self._retry(attempt, self._left(call))

    async def _chunk(self, op: str, seconds: float | None, model: str, chunk: ChunkInput) -> ChunkOutput:
        self._metrics.called("ray")
        call = self._prepare(op, seconds, (model, chunk))
        if self._link is not None and self._link.takes(model):  # so a tokenizer of this node is there
            done = await self._near(call._replace(arguments=(model, await place(chunk))))
            if done is not None:
                return done
        state = None if chunk.state is None else ClipState(chunk.state.frames, chunk.state.arrays)
        far = call._replace(arguments=(model, replace(chunk, state=state)))
        return cast(ChunkOutput, await self._retry(lambda _: self._far(far), self._left(far)))

    async def _near(self, call: _Call) -> ChunkOutput | None:
        return cast(ChunkOutput | None, await self._retry(lambda _: self._in_place(call), self._left(call)))

    async def _in_place(self, call: _Call) -> ChunkOutput | ProblemError | None:
        (model, places), out = call.arguments, Memory()
        asked = HandleCall((model, places.asking(out)), call.trace, self._left(call), call.flow)
        answer = await self._once("run_in_place", call.op, asked)
        return outcome(out, answer) if isinstance(answer, PlacedOutput) else answer

    async def _far(self, call: _Call) -> Any:
        """Send a chunk with its state by gRPC: streams would fill the object store, and wait there for each other."""
        [answer] = await self._send([call], self._handle.options(_by_reference=False))
        return answer

    def _prepare(self, op: str, seconds: float | None, arguments: tuple[Any, ...]) -> _Call:
        left = self._settings.request_seconds if seconds is None else seconds
        return _Call(op, arguments, traceparent(), asyncio.get_running_loop().time() + left, current_flow.get())

    def _left(self, call: _Call) -> float:
        return call.deadline - asyncio.get_running_loop().time()

    async def _alone(self, call: _Call) -> Any:
        [answer] = await self._send([call])
        return answer

    async def _send(self, calls: Sequence[_Call], handle: DeploymentHandle | None = None) -> Sequence[Any]:
        items = [HandleCall(call.arguments, call.trace, self._left(call), call.flow) for call in calls]
        answers: Sequence[Any] = await self._once("run", calls[0].op, items, handle=handle)
        return answers
