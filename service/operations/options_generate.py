"""The options of generate, bounded and closed to unknown names, of queries, bodies and the command."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, model_validator

from media.types import Fit
from model.generator.limits import MAX_GUIDANCE, MAX_SEED, MAX_TEMPERATURE, MAX_TOP_K
from service.errors import ProblemError
from service.operations.options import Frames, MediaRequest, Quality, Rate, RouteOptions, Seconds

MAX_SAMPLES = 64
MAX_STEPS = 1000  # noise levels of the published schedules
MAX_CLASS_CHARS = 256
CLASS_ID = re.compile(r"(?:class:)?(0|[1-9][0-9]{0,8})")

Output = Literal["pixels", "tokens", "both"]


def _class(value: object) -> int | str:
    """Return the id that an integer, digits or `class:207` name, or a name as it is."""
    match = CLASS_ID.fullmatch(value) if isinstance(value, str) else None
    if match:
        return int(match[1])
    if isinstance(value, str) and 0 < len(value) <= MAX_CLASS_CHARS:
        return value
    if type(value) is int and 0 <= value < 10**9:
        return value
    raise ValueError("A class is an id or a name, such as 207 or class:207.")


Class = Annotated[int | str, PlainValidator(_class, json_schema_input_type=str)]


class GenerateOptions(RouteOptions):
    """Options of generate. What is left out is the model's own default."""

    kind: Annotated[
        Literal["image", "video"] | None,
        Field(
            description="what to make; by default a video where frames or a prefix ask for one, "
            "else what the model makes first"
        ),
    ] = None
    class_: Annotated[
        Class | None,
        Field(alias="class", description="id or name of a class, as GET /classes lists them", examples=["207"]),
    ] = None
    n: Annotated[int, Field(ge=1, le=MAX_SAMPLES, description="samples to make")] = 1
    seed: Annotated[
        int | None, Field(ge=0, le=MAX_SEED, description="seed of the samples; a random one if missing")
    ] = None
    frames: Annotated[Frames | None, Field(description="frames of a video, the prefix included")] = None
    prefix_frames: Annotated[
        Frames | None, Field(description="frames at the start of the prefix that the video continues")
    ] = None
    fit: Annotated[Fit, Field(description="how the prefix fills the model's size")] = "cover"
    start_s: Annotated[Seconds | None, Field(description="start of the prefix in its clip, seconds")] = None
    end_s: Annotated[Seconds | None, Field(description="end of the prefix in its clip, seconds")] = None
    temperature: Annotated[
        float | None,
        Field(
            ge=0, le=MAX_TEMPERATURE, allow_inf_nan=False, description="divides the logits; 0 takes the likeliest token"
        ),
    ] = None
    top_k: Annotated[int | None, Field(ge=0, le=MAX_TOP_K, description="tokens to sample from; 0 for all")] = None
    top_p: Annotated[
        float | None, Field(gt=0, le=1, allow_inf_nan=False, description="probability of the tokens to sample from")
    ] = None
    guidance: Annotated[
        float | None,
        Field(ge=0, le=MAX_GUIDANCE, allow_inf_nan=False, description="scale of guidance by class; 1 for none"),
    ] = None
    guidance_growth: Annotated[
        float | None,
        Field(ge=0, le=MAX_GUIDANCE, allow_inf_nan=False, description="growth of guidance with each token; 0 for none"),
    ] = None
    steps: Annotated[int | None, Field(ge=1, le=MAX_STEPS, description="denoising steps of a diffusion model")] = None
    sampler: Annotated[
        Literal["ddim", "ddpm"] | None, Field(description="rule of a denoising step of a diffusion model")
    ] = None
    output: Annotated[Output, Field(description="pixels, tokens (latents of a diffusion model), or both")] = "pixels"
    preview: Annotated[bool, Field(description="send pictures of unfinished samples in an event stream")] = False
    fps: Rate | None = None
    quality: Quality | None = None

    @model_validator(mode="after")
    def _consistent(self) -> GenerateOptions:
        if self.kind == "image":
            for name in ("frames", "prefix_frames"):
                if (getattr(self, name) or 1) > 1:
                    raise ProblemError.of_option(name, "An image has one frame. Leave this out, or ask for a video.")
        if self.frames is not None and self.prefix_frames is not None and self.prefix_frames >= self.frames:
            detail = f"A prefix of {self.prefix_frames} frames leaves nothing of {self.frames} to make."
            raise ProblemError.of_option("prefix_frames", f"{detail} Use fewer, or more `frames`.")
        if self.start_s is not None and self.end_s is not None and self.start_s >= self.end_s:
            raise ProblemError.of_option("end_s", "The window must end after it starts.")
        return self

    def array_request(self) -> MediaRequest:
        """Return the reading of the prefix from an array, which refuses the options of files."""
        return MediaRequest(**self.model_dump(include={"fit", "start_s", "end_s"}, exclude_unset=True))

    def prefix_request(self, height: int, width: int, frames: int) -> MediaRequest:
        """Return the reading of the prefix from a file.

        Args:
            height, width: size of the generator's pixels.
            frames: how many to keep at most.
        """
        given: dict[str, Any] = {"size": f"{height}x{width}", "frames": frames, "fit": self.fit, "animated": frames > 1}
        return MediaRequest(**given, start_s=self.start_s, end_s=self.end_s)
