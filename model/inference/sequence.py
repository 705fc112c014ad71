"""A sequence for the decode engine: what is known, what to generate, and its cost."""

from __future__ import annotations

from dataclasses import dataclass

from model.generator.config import RowPrefix
from model.generator.sampling import SamplingParams

MIN_PREFILL = 8  # fewer known tokens go through steps, which costs their company nothing


class DecodeError(ValueError):
    """A sequence that the decoder cannot take."""


@dataclass(frozen=True)
class Sequence:
    """A request to decode.

    Args:
        prefix: tokens before the codes.
        length: codes to generate.
        params: of sampling; `seed` is the row's own.
        unconditional: prefix of the stream that guides, where the parameters ask for guidance.
        prompt: codes that come before the generated ones, in raster order.
    """

    prefix: RowPrefix
    length: int
    params: SamplingParams
    unconditional: RowPrefix | None = None
    prompt: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.length < 1:
            raise DecodeError(f"length={self.length} must be at least 1.")
        if self.params.guided and self.unconditional is None:
            raise DecodeError(f"guidance={self.params.guidance} needs an unconditional prefix; use guidance=1.")
        if not all(len(prefix.ids) + len(self.prompt) for prefix in self.prefixes):
            raise DecodeError("A sequence needs a prefix or a prompt; this one has neither.")

    @property
    def prefixes(self) -> tuple[RowPrefix, ...]:
        """Return the prefix of each row: the conditional one, then the guiding one if there is guidance."""
        if self.unconditional is None or not self.params.guided:
            return (self.prefix,)
        return self.prefix, self.unconditional

    @property
    def slots(self) -> int:
        """Return the slots that it takes."""
        return len(self.prefixes)

    @property
    def known(self) -> tuple[int, ...]:
        """Return each row's tokens before the first generated one."""
        return tuple(len(prefix.ids) + len(self.prompt) for prefix in self.prefixes)

    @property
    def prefill(self) -> int:
        """Return the tokens of a row to compute before the first step, 0 where steps take them."""
        most = max(self.known) - 1
        return most if most >= MIN_PREFILL else 0

    @property
    def steps(self) -> int:
        """Return the steps after prefill until the last code is there."""
        return self.length + (0 if self.prefill else max(self.known) - 1)
