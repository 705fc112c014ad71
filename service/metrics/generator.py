"""Metrics of generators."""

from __future__ import annotations

from collections.abc import Mapping

from service.metrics.definitions import begun, counter, gauge, histogram
from service.types import GeneratorKind


class GeneratorMetrics:
    """The metrics of the generators of one replica; an `in_process.GenerateObserver`.

    Args:
        replica: its name.
        models: the kind of each generator.
        slots: that it has, all generators together.
        cache_positions: that the key-value caches hold at most.
    """

    def __init__(
        self,
        replica: str = "",
        models: Mapping[str, GeneratorKind] | None = None,
        slots: int = 0,
        cache_positions: int = 0,
    ) -> None:
        self._waiting = gauge("generate_queue_samples").labels(replica)
        self._age = gauge("generate_queue_age_seconds").labels(replica)
        self._slots = gauge("generate_slots_in_use").labels(replica)
        self._cache = gauge("generate_cache_positions_in_use").labels(replica)
        self._wait = histogram("generate_wait_seconds")
        self._steps, self._step_seconds = counter("generate_steps"), histogram("generate_step_duration_seconds")
        self._samples, self._tokens = counter("samples_generated"), counter("tokens_generated")
        for model, kind in (models or {}).items():
            self._samples.labels(kind, model)
            self._tokens.labels(kind, model)
        gauge("generate_slots").labels(replica).set(slots)
        gauge("generate_cache_positions").labels(replica).set(cache_positions)

    def generating(self, waiting: int, slots: int, oldest: float | None = None, positions: int = 0) -> None:
        """Report the sequences that wait and when the oldest arrived, the slots in use, and the cached positions."""
        self._waiting.set(waiting)
        self._age.set(begun(oldest))
        self._slots.set(slots)
        self._cache.set(positions)

    def stepped(self, kind: str, steps: int, seconds: float) -> None:
        """Count steps, and observe the time of the latest."""
        self._steps.labels(kind).inc(steps)
        self._step_seconds.labels(kind).observe(seconds)

    def generated(self, kind: str, model: str, codes: int, waited: float) -> None:
        """Count a sample of so many latent positions, which waited for its slots."""
        self._samples.labels(kind, model).inc()
        self._tokens.labels(kind, model).inc(codes)
        self._wait.labels(kind).observe(waited)
