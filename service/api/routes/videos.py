"""`/v1/videos`: clips by class as jobs, in the shape that clients of OpenAI's interface know."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from media.types import DEFAULT_FPS
from service.api.body import Body, BodyKind
from service.api.caller import owner_of
from service.api.content_type import MULTIPART
from service.api.exchange import Exchange
from service.api.jobs import submit
from service.api.multipart import read_form
from service.api.openapi import inlined, query_parameters
from service.api.parsing import check_media, media_from
from service.api.parsing_generate import GenerateUpload
from service.api.query import parse_options
from service.api.routes.jobs import BINARY, content_of
from service.api.routes.openai import REFUSALS, OpenAIResource, OpenAIRoute, SampleOptions
from service.api.services import Services, ServicesOf
from service.errors import ProblemError
from service.formats.json import read_json
from service.formats.media_types import JSON
from service.jobs.records import Job
from service.operations.clip import ClipSource
from service.operations.generate_plan import GeneratePlan
from service.operations.options import Frames, Rate
from service.operations.options_generate import GenerateOptions
from service.operations.samples import SampleForm
from service.settings import Limits

VIDEO_TYPE = "video/mp4"
REFERENCE = "input_reference"
MAX_SECONDS = 3600


class VideoOptions(SampleOptions):
    """Options of clips in OpenAI's interface, and those of other servers that speak it."""

    seconds: Annotated[float | None, Field(gt=0, le=MAX_SECONDS, description="duration; as trained if missing")] = None
    num_frames: Annotated[Frames | None, Field(description="frames, in place of seconds")] = None
    fps: Rate | None = None

    def generate_options(self) -> GenerateOptions:
        """Return the same request to `/generate`.

        Raises:
            ProblemError: `invalid-options`, a value is out of its range.
        """
        if self.seconds is not None and self.num_frames is not None:
            raise ProblemError.of_option("num_frames", "Give the length as seconds or as num_frames, not as both.")
        frames = self.num_frames
        if self.seconds is not None:
            frames = max(1, round(self.seconds * (self.fps or DEFAULT_FPS)))
        return self.as_generate(kind="video", frames=frames, fps=self.fps)


class VideosOptions(BaseModel):
    """Options of the list of videos."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    limit: Annotated[int, Field(ge=1, le=100, description="videos to list")] = 20
    after: Annotated[str | None, Field(max_length=64, description="id that the last page ended with")] = None
    order: Annotated[Literal["asc", "desc"], Field(description="of submission")] = "desc"


class ContentOptions(BaseModel):
    """Options of the content of a video."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    variant: Annotated[Literal["video"], Field(description="the clip itself")] = "video"


def parse_video_request(body: Body, limits: Limits) -> GenerateUpload:
    """Return the frames to continue, if there are any, and the options in the body.

    Raises:
        ProblemError: `malformed-body`.
    """
    if body.content_type.media_type == JSON:
        fields = read_json(body.data)
        reference = fields.pop(REFERENCE, None)
        if reference is None:
            return GenerateUpload(options=fields)
        if not isinstance(reference, dict) or set(reference) != {"image_url"}:
            raise ProblemError("malformed-body", f"`{REFERENCE}` must be a map of `image_url`, a data: URL.")
        return GenerateUpload(check_media(media_from(reference["image_url"], in_json=True), limits), fields)
    names = (REFERENCE, *VideoOptions.model_fields)
    parts = read_form(body, names, f"The parts of the form are {', '.join(names)}.")
    file = parts.pop(REFERENCE, None)
    source = None if file is None else check_media(ClipSource(file.data), limits)
    return GenerateUpload(source, {name: part.data.decode(errors="replace") for name, part in parts.items()})


async def create(exchange: Exchange, upload: GenerateUpload, options: VideoOptions) -> Response:
    """Submit a clip of a class as a job, in the shape of OpenAI's interface; errors have that shape too."""

    def form_of(plan: GeneratePlan) -> SampleForm:
        frames, height, width = plan.size
        if options.size not in (None, "auto", f"{width}x{height}"):
            detail = f"The model {plan.generator.id} makes clips of {width}x{height}. Ask for that size, or for auto."
            raise ProblemError.of_option("size", detail)
        facts["seconds"] = f"{frames / plan.rate:g}"
        return SampleForm(VIDEO_TYPE, VIDEO_TYPE)

    facts = {"prompt": str(options.prompt)}
    job = await submit(exchange, upload.source, options.generate_options(), "video", form_of, facts)
    return Response(json.dumps(_document(job, exchange.services)), media_type=JSON)


router = APIRouter(tags=["generator"], route_class=OpenAIResource, responses=REFUSALS)
VideoId = Annotated[str, Path(description="id of a video of the caller")]


@router.get("/videos", openapi_extra={"parameters": query_parameters(VideosOptions)})
async def videos(request: Request, services: ServicesOf) -> dict[str, Any]:
    """List the caller's videos in the shape of OpenAI's interface."""
    options = parse_options(VideosOptions, request.scope["query_string"])
    ascending = options.order == "asc"
    found = await services.jobs.jobs(owner_of(request), options.limit + 1, options.after, ascending, "video")
    data = [_document(job, services) for job in found[: options.limit]]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": len(found) > options.limit,
    }


@router.get("/videos/{video_id}")
async def video(video_id: VideoId, request: Request, services: ServicesOf) -> dict[str, Any]:
    """Describe one video: status, progress, error."""
    return _document(await _video(request, services, video_id), services)


@router.get(
    "/videos/{video_id}/content",
    response_class=Response,
    responses={200: {"description": "the clip", "content": {VIDEO_TYPE: BINARY}}},
    openapi_extra={"parameters": query_parameters(ContentOptions)},
)
async def content(video_id: VideoId, request: Request, services: ServicesOf) -> Response:
    """Return the clip of a completed video."""
    parse_options(ContentOptions, request.scope["query_string"])
    return await content_of(request, services, await _video(request, services, video_id))


@router.delete("/videos/{video_id}")
async def delete(video_id: VideoId, request: Request, services: ServicesOf) -> dict[str, Any]:
    """Forget a video and its clip; one that is not finished is cancelled."""
    job = await _video(request, services, video_id)
    await services.jobs.delete(job.owner, job.id)
    return {"id": job.id, "object": "video.deleted", "deleted": True}


async def _video(request: Request, services: Services, video_id: str) -> Job:
    job = await services.jobs.get(owner_of(request), video_id)
    if job.kind != "video":
        raise ProblemError("unknown-job", "The job of this id makes no video of this interface. See /jobs.")
    return job


def _document(job: Job, services: Services) -> dict[str, Any]:
    size, cancelled = job.facts["size"], job.status == "cancelled"
    error = None
    if cancelled:
        error = {"code": "cancelled", "message": "The job was cancelled."}
    elif job.error is not None:
        error = {"code": job.error["code"], "message": job.error["detail"]}
    return {
        "id": job.id,
        "object": "video",
        "model": job.facts["model"],
        "status": "failed" if cancelled else job.status,
        "progress": 100 * job.done // max(1, job.total),
        "created_at": int(job.created),
        "completed_at": int(job.finished) if job.status == "completed" and job.finished is not None else None,
        "expires_at": None if job.finished is None else int(job.finished + services.settings.job_age_seconds),
        "prompt": job.facts["prompt"],
        "seconds": job.facts["seconds"],
        "size": f"{size['width']}x{size['height']}",
        "seed": job.facts["seed"],
        "error": error,
        "remixed_from_video_id": None,
    }


_SCHEMA = inlined(VideoOptions.model_json_schema())
_REFERENCE = {"description": "a picture or a clip to continue: a file, or in JSON a map of image_url, a data: URL"}
VIDEO_REQUEST = BodyKind(
    types=(JSON, MULTIPART),
    part=REFERENCE,
    unlabelled_bytes=lambda limits: max(limits.image_bytes, limits.video_bytes),
    parse=parse_video_request,
    maps=(JSON, MULTIPART),
    schema=_SCHEMA | {"properties": _SCHEMA["properties"] | {REFERENCE: _REFERENCE}},
)
ROUTE = OpenAIRoute("/videos", VIDEO_REQUEST, VideoOptions, (JSON,), create, in_query=False, only_jobs=True)
