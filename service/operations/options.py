"""The options of each route: bounded, closed to unknown names, and the same in a query and in a body."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import parse_qsl

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from media.types import MediaOptions
from service.errors import ProblemError
from service.formats.result import EncodeMeta, Hash, pointers
from service.types import ModelCard, Size, Want

MAX_QUERY_BYTES = 4096
MAX_SIDE = 8192
MAX_FRAMES = 4096
SIZE = re.compile(r"([1-9][0-9]{0,3})(?:x([1-9][0-9]{0,3}))?")

Options = TypeVar("Options", bound="RouteOptions")


def _sides(value: object) -> object:
    if type(value) is int:
        return value, value
    match = SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("size is a side or HEIGHTxWIDTH in pixels, such as 128 or 128x192")
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
    """Options of every route."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    model: Model | None = None


class MediaRequest(RouteOptions):
    """Options that turn media into the model's pixels. None of it applies to raw arrays."""

    size: Sides | None = None
    fit: Literal["cover", "contain", "stretch"] = "cover"
    frames: Annotated[Frames | None, Field(description="frames to keep at most")] = None
    sampling: Annotated[Literal["first", "uniform", "stride"], Field(description="which frames are kept")] = "first"
    stride: Annotated[int, Field(ge=1, le=1024, description="every n-th frame, with sampling=stride")] = 1
    start_s: Annotated[Seconds | None, Field(description="start of the part to use, seconds")] = None
    end_s: Annotated[Seconds | None, Field(description="end of the part to use, seconds")] = None
    animated: Annotated[bool, Field(description="take an animated picture as a clip")] = False

    @model_validator(mode="after")
    def _consistent(self) -> MediaRequest:
        if self.start_s is not None and self.end_s is not None and self.start_s >= self.end_s:
            raise ValueError("start_s must lie before end_s")
        if "stride" in self.model_fields_set and self.sampling != "stride":
            raise ValueError("stride needs sampling=stride")
        return self

    def media(self) -> MediaOptions:
        """Return these options in the form of the media workers."""
        return MediaOptions(
            size=self.size,
            fit=self.fit,
            frames=self.frames,
            sampling=self.sampling,
            stride=self.stride,
            start_s=self.start_s,
            end_s=self.end_s,
            animated=self.animated,
        )

    def refuse_media_options(self) -> None:
        """Refuse what cannot be done to a raw array.

        Raises:
            ProblemError: `invalid-options`, naming the options.
        """
        given = sorted(self.model_fields_set & set(MediaRequest.model_fields) - set(RouteOptions.model_fields))
        if given:
            errors = [{"pointer": f"/{name}", "detail": "does not apply to an array"} for name in given]
            raise ProblemError("invalid-options", "an array is encoded as it is", errors=errors)


class EncodeOptions(MediaRequest):
    """Options of `POST /encode`."""

    output: Annotated[Want | None, Field(description="default: tokens of a vq bundle, latents of a vae bundle")] = None

    def want(self, card: ModelCard) -> Want:
        """Return the outputs to compute with the bundle of `card`.

        Raises:
            ProblemError: `invalid-options` when the bundle has no tokens.
        """
        if card.kind == "vae" and self.output in ("tokens", "both"):
            errors = [{"pointer": "/output", "detail": "a vae bundle has latents only"}]
            raise ProblemError("invalid-options", f"{card.id} makes no tokens", errors=errors)
        return self.output or ("tokens" if card.kind == "vq" else "latents")


class ReconstructOptions(MediaRequest):
    """Options of `POST /reconstruct`."""

    fps: Rate | None = None
    quality: Quality | None = None


class DecodeOptions(RouteOptions):
    """Options of `POST /decode`; what is missing comes from the metadata of the tokens."""

    bundle: Annotated[Hash | None, Field(description="hash of the bundle that made the tokens")] = None
    frames: Annotated[Frames | None, Field(description="frames to crop to")] = None
    height: Annotated[Side | None, Field(description="height to crop to, pixels")] = None
    width: Annotated[Side | None, Field(description="width to crop to, pixels")] = None
    fps: Rate | None = None
    quality: Quality | None = None

    def size(self, meta: EncodeMeta, card: ModelCard, grid: Size) -> Size:
        """The (frames, height, width) to answer with.

        Args:
            meta: the description of the tokens.
            card: the bundle that decodes them.
            grid: the latent positions (t, h, w).

        Raises:
            ProblemError: `bad-grid` when no clip of that size has this grid.
        """
        base = meta.size.as_tuple() if meta.size else card.geometry.size(grid)
        size = (self.frames or base[0], self.height or base[1], self.width or base[2])
        if (expected := card.geometry.grid(size)) != grid:
            shape, has, given = ("x".join(map(str, extents)) for extents in (size, expected, grid))
            detail = f"a clip of {shape} (frames, height, width) has the grid {has}, not {given}"
            raise ProblemError("bad-grid", detail)
        return size


def parse_query(query: bytes) -> dict[str, str]:
    """The parameters of a query string, each name once.

    Raises:
        ProblemError: `invalid-options`.
    """
    if len(query) > MAX_QUERY_BYTES:
        raise ProblemError("invalid-options", "the query is too long", limit=MAX_QUERY_BYTES, actual=len(query))
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=64)
    except ValueError as error:
        raise ProblemError("invalid-options", "the query cannot be understood") from error
    parameters = dict(pairs)
    if len(parameters) != len(pairs):
        raise ProblemError("invalid-options", "a query parameter occurs twice")
    return parameters


def parse_options(kind: type[Options], query: bytes, body: object = None) -> Options:
    """The options of a request, from its query and from the `options` of its body together.

    Args:
        kind: the route's model.
        query: the raw query string.
        body: the `options` value of the body, or None.

    Raises:
        ProblemError: `invalid-options`, with pointers and without the caller's values.
    """
    values: dict[str, Any] = dict(parse_query(query))
    if body is not None:
        if not isinstance(body, dict):
            raise ProblemError("invalid-options", "options must be a map")
        if set(values) & set(body):
            raise ProblemError("invalid-options", "an option is given in the query and in the body")
        values |= body
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        detail = f"the options are {', '.join(kind.model_fields)}; see errors"
        raise ProblemError("invalid-options", detail, errors=pointers(error, kind)) from error


def find_card(cards: list[ModelCard], name: str | None) -> ModelCard:
    """The bundle that a request names, or the default one.

    Raises:
        ProblemError: `unknown-model`, listing what there is.
    """
    if not cards:
        raise ProblemError("not-ready", "no bundle is loaded", retry_after_seconds=5)
    if name is None:
        return cards[0]
    for card in cards:
        if card.id == name:
            return card
    raise ProblemError("unknown-model", f"the models here are {', '.join(card.id for card in cards)}")


def find_decoder(cards: list[ModelCard], options: DecodeOptions, meta: EncodeMeta) -> ModelCard:
    """The bundle that made the tokens.

    Args:
        cards: the bundles that are served.
        options: may name the model and the hash.
        meta: may name them too.

    Raises:
        ProblemError: `invalid-options` without a hash, `model-mismatch` when the bundle of that hash is not served
            under the name that was asked for, `unknown-model`.
    """
    if options.bundle and meta.bundle and options.bundle != meta.bundle:
        detail = f"the query says bundle {options.bundle}, the metadata says {meta.bundle}"
        raise ProblemError("model-mismatch", detail)
    made_by = options.bundle or meta.bundle
    if made_by is None:
        errors = [{"pointer": "/bundle", "detail": "missing: the hash of the bundle that made the tokens"}]
        raise ProblemError("invalid-options", "tokens are decoded by the bundle that made them only", errors=errors)
    if options.model is None:
        for card in cards:
            if card.hash == made_by:
                return card
    known = {card.id for card in cards}
    card = find_card(cards, options.model or (meta.model if meta.model in known else None))
    if card.hash != made_by:
        detail = f"the tokens were made by bundle {made_by}, and {card.id} is bundle {card.hash}"
        raise ProblemError("model-mismatch", detail)
    return card
