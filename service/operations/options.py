"""The options of each use case, bounded and closed to unknown names, of queries, bodies and the command."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from media.types import Fit, MediaOptions, Sampling
from service.errors import ProblemError
from service.formats.result import Hash
from service.types import Want

MAX_SIDE = 8192
MAX_FRAMES = 2**20
SIZE = re.compile(r"([1-9][0-9]{0,3})(?:x([1-9][0-9]{0,3}))?")


def _sides(value: object) -> object:
    if type(value) is int:
        return value, value
    match = SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"A size is a side or HEIGHTxWIDTH of 1 to {MAX_SIDE} pixels, such as 128 or 128x192.")
    height, width = match.groups()
    return int(height), int(width or height)


Side = Annotated[int, Field(ge=1, le=MAX_SIDE)]
Sides = Annotated[
    tuple[Side, Side],
    BeforeValidator(_sides, json_schema_input_type=str),
    Field(description="side, or HEIGHTxWIDTH, in pixels: 128 or 128x192", examples=["128x192"]),
]
Model = Annotated[str, Field(min_length=1, max_length=128, description="id of a bundle; the default one if missing")]
Rate = Annotated[float, Field(ge=0.1, le=240, allow_inf_nan=False, description="frames per second of a clip")]
Quality = Annotated[int, Field(ge=1, le=100, description="quality of lossy pictures, 1 to 100")]
Frames = Annotated[int, Field(ge=1, le=MAX_FRAMES)]
Seconds = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]


class RouteOptions(BaseModel):
    """Options of every use case."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    model: Model | None = None


class MediaRequest(RouteOptions):
    """Options that turn media into the model's pixels. None of it applies to raw arrays."""

    size: Sides | None = None
    fit: Annotated[Fit, Field(description="how the picture fills size")] = "cover"
    frames: Annotated[Frames | None, Field(description="frames to keep at most")] = None
    sampling: Annotated[Sampling, Field(description="which frames are kept")] = "first"
    stride: Annotated[int, Field(ge=1, le=1024, description="every n-th frame, with sampling=stride")] = 1
    start_s: Annotated[Seconds | None, Field(description="start of the part to use, seconds")] = None
    end_s: Annotated[Seconds | None, Field(description="end of the part to use, seconds")] = None
    animated: Annotated[bool, Field(description="take an animated picture as a clip")] = False

    @model_validator(mode="after")
    def _consistent(self) -> MediaRequest:
        self.media()
        return self

    def media(self) -> MediaOptions:
        """Return these options in the form of `media`.

        Raises:
            MediaError: `invalid-options` when they contradict each other.
        """
        return MediaOptions(**{field.name: getattr(self, field.name) for field in fields(MediaOptions)})

    def refuse_media_options(self) -> None:
        """Refuse what cannot be done to a raw array.

        Raises:
            ProblemError: `invalid-options`, naming the options.
        """
        if given := sorted(self.model_fields_set & {field.name for field in fields(MediaOptions)}):
            errors = [{"pointer": f"/{name}", "detail": "This option does not apply to an array."} for name in given]
            detail = f"An array is encoded as it is. Leave out {', '.join(given)}."
            raise ProblemError("invalid-options", detail, errors=errors)


class EncodeOptions(MediaRequest):
    """Options of encode."""

    output: Annotated[
        Want | None, Field(description="what to give; by default tokens of a VQ bundle, latents of a VAE bundle")
    ] = None


class ReconstructOptions(MediaRequest):
    """Options of reconstruct."""

    fps: Rate | None = None
    quality: Quality | None = None
    side_by_side: Annotated[bool, Field(description="put what the network was fed left of what came back")] = False


class DecodeOptions(RouteOptions):
    """Options of decode; what is missing comes from the metadata of the tokens."""

    bundle: Annotated[Hash | None, Field(description="hash of the bundle that made the tokens")] = None
    frames: Annotated[Frames | None, Field(description="frames to crop to")] = None
    height: Annotated[Side | None, Field(description="height to crop to, pixels")] = None
    width: Annotated[Side | None, Field(description="width to crop to, pixels")] = None
    fps: Rate | None = None
    quality: Quality | None = None


class ClassesOptions(RouteOptions):
    """Options of the list of classes."""

    q: Annotated[str, Field(max_length=256, description="part of a name, in any case")] = ""


class JobsOptions(BaseModel):
    """Options of the list of jobs."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    limit: Annotated[int, Field(ge=1, le=100, description="jobs to list")] = 20
    after: Annotated[str | None, Field(max_length=64, description="id of the job that the last page ended with")] = None
