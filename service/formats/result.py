"""Answers of `/encode`, which `/decode` takes back: tokens or latents with their description."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from media.types import Preprocess, SourceInfo
from service.errors import ProblemError
from service.formats.validation import field_errors

Extent = Annotated[int, Field(ge=1, le=2**20)]
Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
# The dataclasses of `media` inside are checked by these rules too.
Strict = ConfigDict(
    extra="forbid", frozen=True, strict=True, allow_inf_nan=False, str_max_length=256, revalidate_instances="always"
)
MAX_TIMES = 4096


def _source(value: object) -> object:
    """Return the source in plain data; its fields are checked afterwards."""
    if not isinstance(value, Mapping):
        return value
    times = value.get("sampled_pts")
    if isinstance(times, list | tuple) and len(times) > MAX_TIMES:  # or each could be an error
        raise ValueError(f"`sampled_pts` may have {MAX_TIMES} times; it has {len(times)}.")
    try:
        return SourceInfo(**value)
    except TypeError:
        raise ValueError(f"The fields are {', '.join(SourceInfo.__dataclass_fields__)}; each is required.") from None


def _preprocess(value: object) -> object:
    """Return the steps in plain data, where tuples are lists; the fields are checked afterwards."""
    if not isinstance(value, Mapping):
        return value
    try:
        return Preprocess(**{name: tuple(step) if isinstance(step, list) else step for name, step in value.items()})
    except TypeError:
        raise ValueError(f"The fields are {', '.join(Preprocess.__dataclass_fields__)}.") from None


Source = Annotated[SourceInfo, BeforeValidator(_source, json_schema_input_type=SourceInfo)]
Steps = Annotated[Preprocess, BeforeValidator(_preprocess, json_schema_input_type=Preprocess)]


class ClipSize(BaseModel):
    """Extents in pixels of what was encoded, before the model's own padding."""

    model_config = Strict
    frames: Extent
    height: Extent
    width: Extent

    def as_tuple(self) -> tuple[int, int, int]:
        """Return (frames, height, width)."""
        return self.frames, self.height, self.width


class TimingMeta(BaseModel):
    """Milliseconds spent on decoding the media, waiting for a batch, computing, and in all until the codes were there.

    Writing the answer follows: it is `render` in the header `Server-Timing`.
    """

    model_config = Strict
    decode_ms: float
    queue_ms: float
    compute_ms: float
    total_ms: float


class EncodeMeta(BaseModel):
    """The description that travels with tokens and latents; every field may be missing in hand-made bodies.

    Args:
        id: request id.
        model: name of the bundle; `bundle`: its content hash, 64 hex digits; `kind`: its head.
        grid: latent positions [t, h, w].
        codebook_size: number of codes, None for a VAE.
        size: extents of the encoded pixels; `fps`: their rate, frames per second, None for a picture.
    """

    model_config = Strict
    id: str | None = None
    model: str | None = None
    bundle: Hash | None = None
    kind: Literal["vq", "vae"] | None = None
    grid: Annotated[list[int], Field(min_length=3, max_length=3)] | None = None
    codebook_size: int | None = None
    size: ClipSize | None = None
    fps: Annotated[float, Field(gt=0)] | None = None
    source: Source | None = None
    preprocess: Steps | None = None
    timing: TimingMeta | None = None


@dataclass(frozen=True, eq=False)
class EncodeResult:
    """Tokens or latents, or both, and what they describe.

    Args:
        meta: the description.
        tokens: integers (t, h, w), or None.
        latents: float16 or float32 (t, h, w, c), or None.

    Raises:
        ProblemError: `invalid-tensor` or `bad-grid` when the parts do not fit each other.
    """

    meta: EncodeMeta
    tokens: NDArray[Any] | None = None
    latents: NDArray[Any] | None = None

    def __post_init__(self) -> None:
        if self.tokens is None and self.latents is None:
            raise ProblemError("missing-part", "The body must hold `tokens` or `latents`.")
        if self.tokens is not None and (self.tokens.ndim != 3 or self.tokens.dtype.kind not in "iu"):
            raise ProblemError("invalid-tensor", f"`tokens` must be integers (t, h, w); they are {_kind(self.tokens)}.")
        if self.latents is not None and (self.latents.ndim != 4 or self.latents.dtype.kind != "f"):
            raise ProblemError("invalid-tensor", f"`latents` must be floats (t, h, w, c), not {_kind(self.latents)}.")
        grids = {tensor.shape[:3] for tensor in (self.tokens, self.latents) if tensor is not None}
        if self.meta.grid is not None:
            grids.add(tuple(self.meta.grid))
        if len(grids) > 1:
            shapes = ", ".join("x".join(map(str, grid)) for grid in sorted(grids))
            raise ProblemError("bad-grid", f"Tokens, latents and grid must agree; they are {shapes}.")

    def __repr__(self) -> str:
        """Return one line: tensors without their values."""
        tensors = ", ".join(f"{name} {_kind(array)}" for name, array in self.tensors.items())
        return f"<EncodeResult of {self.meta.model or 'no named model'}: {tensors}>"

    @property
    def grid(self) -> tuple[int, int, int]:
        """Return the latent positions (t, h, w)."""
        tensor = self.latents if self.tokens is None else self.tokens
        assert tensor is not None
        t, h, w = tensor.shape[:3]
        return t, h, w

    @property
    def tensors(self) -> dict[str, NDArray[Any]]:
        """Return what is there by name, contiguous."""
        pairs = {"tokens": self.tokens, "latents": self.latents}
        return {name: np.ascontiguousarray(array) for name, array in pairs.items() if array is not None}

    @property
    def nbytes(self) -> int:
        """Return the bytes of the tensors."""
        return sum(tensor.nbytes for tensor in (self.tokens, self.latents) if tensor is not None)


def _kind(array: NDArray[Any]) -> str:
    return f"{array.dtype} of shape {array.shape}"


def parse_meta(fields: dict[str, Any]) -> EncodeMeta:
    """Return the metadata in plain data.

    Raises:
        ProblemError: `invalid-options`, naming the fields but never their values.
    """
    try:
        return EncodeMeta.model_validate(fields)
    except ValidationError as error:
        detail = "The metadata is invalid; `errors` names the fields."
        raise ProblemError("invalid-options", detail, errors=field_errors(error, EncodeMeta)) from error


def build(tensors: dict[str, NDArray[Any]], fields: dict[str, Any]) -> EncodeResult:
    """Return the result of named tensors and of metadata in plain data.

    Raises:
        ProblemError: `invalid-tensor` for another name, `invalid-options` for invalid metadata.
    """
    if not set(tensors) <= {"tokens", "latents"}:
        raise ProblemError("invalid-tensor", "A tensor has another name than `tokens` and `latents`. Leave it out.")
    return EncodeResult(parse_meta(fields), tensors.get("tokens"), tensors.get("latents"))
