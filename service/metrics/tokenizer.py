"""Metrics of tokenizer replicas, and of the kernels of any replica with networks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from service.metrics.definitions import OPS, begun, counter, gauge, histogram, observe_each
from service.scheduling.batcher import Batch
from service.scheduling.executor import Failure
from service.types import Op


class KernelMetrics:
    """The kernels of a replica with networks, tokenizers or generators."""

    def __init__(self) -> None:
        self._late = counter("late_kernels")
        self._seen = 0

    def late(self, count: int) -> None:
        """Take over the number of kernels that were compiled or loaded since the replica was ready."""
        self._late.inc(count - self._seen)
        self._seen = count


class TokenizerMetrics:
    """The metrics of one tokenizer replica; a `scheduling.executor.Observer`.

    Args:
        replica: its name.
        models: the ids of its bundles.
        max_queue_tokens: latent positions that may wait.
        ran: called with the positions and the seconds of each batch.
    """

    def __init__(
        self,
        replica: str = "",
        models: Collection[str] = (),
        max_queue_tokens: int = 0,
        ran: Callable[[int, float], None] = lambda positions, seconds: None,
    ) -> None:
        self.queued_tokens = 0
        self._oldest: float | None = None
        self._ran = ran
        self._queue_requests = gauge("queue_requests").labels(replica)
        self._queue_tokens = gauge("queue_tokens").labels(replica)
        self._queue_age = gauge("queue_age_seconds").labels(replica)
        self._queue_wait = histogram("queue_wait_seconds")
        self._batches, self._splits = counter("batches"), counter("batch_splits")
        self._batch_requests, self._fill = histogram("batch_requests"), histogram("batch_fill_ratio")
        self._batch_seconds = histogram("batch_duration_seconds")
        self._encoded, self._decoded = counter("tokens_encoded"), counter("tokens_decoded")
        self._frames, self._requests = counter("frames"), counter("model_requests")
        self._compute = counter("model_compute_seconds")
        for model in models:
            for total in (self._encoded, self._decoded, self._frames):
                total.labels(model)
            for op in OPS:
                self._requests.labels(model, op)
                self._compute.labels(model, op)
        gauge("queue_tokens_limit").labels(replica).set(max_queue_tokens)

    def queue(self, requests: int, tokens: int, oldest: float | None = None) -> None:
        """Report the length of the queue, and when its oldest item arrived."""
        self.queued_tokens = tokens
        self._queue_requests.set(requests)
        self._queue_tokens.set(tokens)
        if oldest != self._oldest:
            self._oldest = oldest
            self._queue_age.set(begun(oldest))

    def batch(self, batch: Batch, seconds: float, waits: Sequence[float] = ()) -> None:
        """Count a batch that took `seconds`, after the messages of its items had waited."""
        op = batch.key.op
        self._batches.labels(op, batch.stop_reason).inc()
        self._batch_requests.labels(op).observe(len(batch.items))
        self._fill.labels(op).observe(batch.cost / batch.budget)
        self._batch_seconds.labels(op).observe(seconds)
        observe_each(self._queue_wait.labels(op), waits)
        self._compute.labels(batch.key.model, op).inc(max(0.0, seconds))
        self._ran(batch.cost, seconds)

    def split(self, batch: Batch, failure: Failure) -> None:
        """Count a batch whose halves ran again, since the whole failed."""
        self._splits.labels(batch.key.op, failure).inc()

    def done(self, op: Op, frames: int, tokens: int, model: str, requests: int) -> None:
        """Count requests that have results, with their frames and positions."""
        self._requests.labels(model, op).inc(requests)
        self._frames.labels(model).inc(frames)
        if op not in ("decode", "decode_chunk"):
            self._encoded.labels(model).inc(tokens)
        if op not in ("encode", "encode_chunk"):
            self._decoded.labels(model).inc(tokens)
