"""`POST /v1/images/generations`: pictures by class in the shape of OpenAI's interface, for tools that speak it."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi.routing import APIRoute
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from media.errors import MediaError
from service.api.body import Body, BodyKind
from service.api.errors import on_problem
from service.api.exchange import Exchange
from service.api.openapi import REFUSAL, inlined
from service.api.parsing_generate import GenerateUpload
from service.api.query import parse_options
from service.api.routes.route import Route
from service.api.services import Services
from service.errors import ProblemError
from service.formats.json import read_json
from service.formats.media_types import JSON
from service.operations.generate import generate as run
from service.operations.generate_plan import GeneratePlan
from service.operations.options import RouteOptions
from service.operations.options_generate import Class, GenerateOptions
from service.settings import Limits

MAX_IMAGES = 10
OUTPUT_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
# Parameters by the problems that are about one.
PARAMETERS = {"unknown-class": "prompt", "unknown-model": "model", "tokenizer-not-served": "model", "use-async": "n"}
BODY_NAMES = {"class": "prompt", "guidance": "guidance_scale", "steps": "num_inference_steps"}
ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
        }
    },
}
# What is wrong before a route is found gets a problem document here too.
REFUSALS: dict[int | str, dict[str, Any]] = {
    "default": REFUSAL["default"] | {"content": REFUSAL["default"]["content"] | {JSON: {"schema": ERROR}}}
}
ERROR_TYPES = {404: "not_found_error", 429: "rate_limit_error"}

Ignored = Annotated[str | None, Field(max_length=256, description="ignored")]


class SampleOptions(RouteOptions):
    """Options of samples in OpenAI's interface, and those of other servers that speak it."""

    prompt: Annotated[Class, Field(description="id or name of a class, as GET /classes lists them: 207 or class:207")]
    size: Annotated[str | None, Field(max_length=16, description="auto, or WIDTHxHEIGHT of the model")] = None
    seed: Annotated[int | None, Field(ge=0, description="seed of the samples; a random one if missing")] = None
    guidance_scale: Annotated[float | None, Field(description="as guidance of /generate")] = None
    num_inference_steps: Annotated[int | None, Field(description="as steps of /generate")] = None
    temperature: Annotated[float | None, Field(description="as of /generate")] = None
    top_k: Annotated[int | None, Field(description="as of /generate")] = None
    top_p: Annotated[float | None, Field(description="as of /generate")] = None
    user: Ignored = None

    def as_generate(self, **own: Any) -> GenerateOptions:
        """Return the same request to `/generate`.

        Args:
            own: what its kind of sample adds; None is left out.

        Raises:
            ProblemError: `invalid-options`, a value is out of its range.
        """
        given = own | {
            "model": self.model,
            "class": self.prompt,
            "seed": self.seed,
            "guidance": self.guidance_scale,
            "steps": self.num_inference_steps,
            "temperature": self.temperature,
            "top_k": self.top_k,
            "top_p": self.top_p,
        }
        return parse_options(GenerateOptions, b"", {name: value for name, value in given.items() if value is not None})


class ImageOptions(SampleOptions):
    """Options of pictures in OpenAI's interface, and those of other servers that speak it."""

    n: Annotated[int | None, Field(ge=1, le=MAX_IMAGES, description="pictures to make")] = 1
    response_format: Annotated[Literal["b64_json"] | None, Field(description="the service stores no files")] = None
    output_format: Annotated[Literal["png", "jpeg", "webp"] | None, Field(description="form of the pictures")] = None
    output_compression: Annotated[
        int | None, Field(ge=0, le=100, description="quality of JPEG and WebP, 100 for the best")
    ] = None
    stream: Annotated[Literal[False] | None, Field(description="POST /generate streams events")] = None
    background: Annotated[Literal["auto", "opaque"] | None, Field(description="pictures are opaque")] = None
    quality: Ignored = None
    style: Ignored = None
    moderation: Ignored = None
    safety_identifier: Ignored = None

    def generate_options(self) -> GenerateOptions:
        """Return the same request to `/generate`.

        Raises:
            ProblemError: `invalid-options`, a value is out of its range.
        """
        return self.as_generate(kind="image", n=self.n or 1)


def parse_image_request(body: Body, limits: Limits) -> GenerateUpload:
    """Return the options in the body.

    Raises:
        ProblemError: `malformed-body`.
    """
    return GenerateUpload(options=read_json(body.data))


async def images(exchange: Exchange, upload: GenerateUpload, options: ImageOptions) -> Response:
    """Make pictures of a class, in the shape of OpenAI's interface; errors have that shape too."""
    output_format = options.output_format or "png"
    quality = None if output_format == "png" or options.output_compression is None else options.output_compression

    def accept(plan: GeneratePlan) -> None:
        exchange.use(plan.generator)
        _, height, width = plan.size
        if options.size not in (None, "auto", f"{width}x{height}"):
            detail = (
                f"The model {plan.generator.id} makes pictures of {width}x{height}. Ask for that size, or for auto."
            )
            raise ProblemError.of_option("size", detail)
        exchange.note_samples(plan)

    made = await run(
        exchange.backend,
        exchange.generators,
        exchange.media,
        None,
        options.generate_options(),
        exchange.limits,
        accept=accept,
        seconds=exchange.deadline.left(),
    )
    exchange.note(made.timing, decode=made.decode_ms)
    name = None if made.class_id is None else dict(enumerate(made.generator.classes)).get(made.class_id)
    data = []
    for index in range(len(made.samples)):
        file = await made.pixels(index).render(exchange.media, OUTPUT_TYPES[output_format], quality and max(1, quality))
        data.append({"b64_json": base64.b64encode(file).decode(), "revised_prompt": name})
    _, height, width = made.size
    answer = {
        "created": int(time.time()),
        "data": data,
        "output_format": output_format,
        "size": f"{width}x{height}",
        "seed": made.seed,
        "model": made.generator.id,
    }
    return Response(json.dumps(answer), headers=exchange.headers(made.generator, made.seed), media_type=JSON)


@dataclass(frozen=True)
class OpenAIRoute(Route):
    """A route whose errors have the shape of OpenAI's interface."""

    def description(self) -> dict[str, Any]:
        """Return the fields of its operation in OpenAPI, its errors included."""
        fields = super().description()
        return fields | {"responses": fields["responses"] | REFUSALS}

    async def answer(self, request: Request, services: Services) -> Response:
        """Answer a request.

        Raises:
            ClientGoneError: the connection closed first.
        """
        try:
            return await super().answer(request, services)
        except MediaError as error:
            return await refusal(request, ProblemError.of(error))
        except ProblemError as error:
            return await refusal(request, error)


class OpenAIResource(APIRoute):
    """A route of FastAPI whose errors have that shape too."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler, which answers refusals by itself."""
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            try:
                return await handle(request)
            except ProblemError as error:
                return await refusal(request, error)

        return handler


async def refusal(request: Request, error: ProblemError) -> Response:
    """Return the answer to a refused request in the shape of OpenAI's interface."""
    problem = await on_problem(request, error)
    headers = {name: value for name, value in problem.headers.items() if not name.startswith("content-")}
    status = 400 if error.status == 422 else error.status
    pointer = error.errors[0]["pointer"].strip("/") if error.errors else PARAMETERS.get(error.code)
    detail = error.detail.replace("`errors`", "`param`")  # this shape has no `errors`
    details = dict.fromkeys([detail, *(entry["detail"] for entry in error.errors)])
    fields = {
        "message": " ".join(details),
        "type": ERROR_TYPES.get(status, "invalid_request_error" if status < 500 else "server_error"),
        "param": BODY_NAMES.get(pointer, pointer) if pointer else None,
        "code": error.code,
    }
    return Response(json.dumps({"error": fields}), status, headers, JSON)


IMAGE_REQUEST = BodyKind(
    types=(JSON,),
    part="",
    unlabelled_bytes=lambda limits: limits.json_bytes,
    parse=parse_image_request,
    maps=(JSON,),
    schema=inlined(ImageOptions.model_json_schema()),
)
ROUTE = OpenAIRoute(
    "/images/generations",
    IMAGE_REQUEST,
    ImageOptions,
    (JSON,),
    images,
    lambda settings: settings.generate_seconds,
    in_query=False,
)
