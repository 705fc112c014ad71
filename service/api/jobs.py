"""Jobs on their way in and out of HTTP: submission instead of an answer, and records as documents."""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from starlette.responses import Response

from service.api.exchange import Exchange
from service.errors import ProblemError
from service.formats.media_types import JSON
from service.formats.result import EncodeResult
from service.jobs.records import Job, Kind, NewJob
from service.jobs.request import JobRequest
from service.jobs.work import job_limits
from service.operations.clip import ClipSource
from service.operations.generate import planned
from service.operations.generate_plan import GeneratePlan, less_work
from service.operations.options_generate import GenerateOptions
from service.operations.samples import SampleForm

ID_BYTES = 16


async def submit(
    exchange: Exchange,
    source: ClipSource | EncodeResult | None,
    options: GenerateOptions,
    kind: Kind,
    form_of: Callable[[GeneratePlan], SampleForm],
    facts: dict[str, Any] | None = None,
) -> Job:
    """Queue a generation.

    Args:
        exchange: the request.
        source: frames to continue, or None.
        options: of generate, as the caller gave them.
        kind: the interface that it came through.
        form_of: chooses the form of the content by the plan; it may raise.
        facts: what else the record shows; `form_of` may add to them.

    Raises:
        ProblemError: for anything wrong with the options, `job-too-long`, and what the queue refuses.
    """
    services, key = exchange.services, exchange.idempotency_key
    try:
        plan = await planned(exchange.backend, exchange.generators, source, options, job_limits(exchange.limits))
    except ProblemError as error:
        if error.code == "use-async":  # of a request; this is a job already
            error.code = "job-too-long"
        raise
    most = services.settings.job_seconds
    if plan.seconds is not None and plan.seconds > most:
        detail = f"This takes about {plan.seconds:.0f} s, and a job may take {most:g} s."
        raise ProblemError("job-too-long", f"{detail} Ask for fewer {less_work(plan)}.", most, round(plan.seconds, 1))
    exchange.use(plan.generator)
    form = form_of(plan)
    given = JobRequest(source, options.model_copy(update={"preview": False}), form, plan.generator.hash)
    fixed = {"seed": plan.seed, "model": plan.generator.id, "class_": plan.class_id}
    request = replace(given, options=given.options.model_copy(update=fixed))
    data, fingerprint = await asyncio.to_thread(lambda: (request.pack(), given.fingerprint))  # of a clip, perhaps
    new = NewJob(
        f"{kind}_{_name(exchange.owner, exchange.submission)}",
        exchange.owner,
        kind,
        _facts(plan) | (facts or {}),
        data,
        plan.total,
        key,
        f"{kind} {fingerprint}",
    )
    job = await services.jobs.submit(new)
    if job.id == new.id:
        exchange.charge(plan.samples * plan.card.geometry.positions(plan.size))
    return job


def _name(owner: str, submission: str | None) -> str:
    """Return the name of a job: a replica that dies before it answers may have queued the same request already."""
    if submission is None:
        return secrets.token_hex(ID_BYTES)
    return hashlib.sha256(json.dumps([owner, submission]).encode()).hexdigest()[: 2 * ID_BYTES]


def accepted(job: Job) -> Response:
    """Return the answer to the submission of a job."""
    headers = {"Location": f"/jobs/{job.id}", "Preference-Applied": "respond-async", "Vary": "Accept, Prefer"}
    return Response(json.dumps(document(job)), 202, headers, JSON)


def document(job: Job) -> dict[str, Any]:
    """Return a job as its caller sees it; times are seconds since 1970."""
    links = {"self": f"/jobs/{job.id}", "events": f"/jobs/{job.id}/events"}
    content = None
    if job.media_type is not None:
        links["content"] = f"/jobs/{job.id}/content"
        content = {"media_type": job.media_type, "bytes": job.content_bytes}
    return {
        "id": job.id,
        "object": "job",
        "status": job.status,
        "created_at": round(job.created, 3),
        "started_at": None if job.started is None else round(job.started, 3),
        "finished_at": None if job.finished is None else round(job.finished, 3),
        "progress": {"done": job.done, "total": job.total},
        **job.facts,
        "error": job.error,
        "content": content,
        "links": links,
    }


def _facts(plan: GeneratePlan) -> dict[str, Any]:
    names = dict(enumerate(plan.generator.classes))
    frames, height, width = plan.size
    return {
        "model": plan.generator.id,
        "bundle": plan.generator.hash,
        "class_id": plan.class_id,
        "class_name": None if plan.class_id is None else names.get(plan.class_id),
        "seed": plan.seed,
        "samples": plan.samples,
        "size": {"frames": frames, "height": height, "width": width},
    }
