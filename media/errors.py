"""The refusal of a file, an option or a limit by the media readers and writers."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class MediaError(Exception):
    """A file that cannot be read, an option out of range, or a limit that is broken.

    Args:
        code: stable name of the fault, such as "corrupt-media" or "too-many-frames".
        detail: full sentences that name the value and the remedy; they repeat nothing of the file but numbers and names
            of formats.
        limit, actual: the bound that was broken and the value that broke it, where both are numbers.
        errors: `{"pointer": ..., "detail": ...}` entries for invalid options.
    """

    code: str
    detail: str
    limit: float | None = None
    actual: float | None = None
    errors: list[dict[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(self.code, self.detail)

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"
