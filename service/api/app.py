"""The ingress application: routes, errors and life of the HTTP tier, with neither ray nor torch."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException

from media.errors import MediaError
from service.api.authentication import Authentication
from service.api.cors import Cors
from service.api.direct import DirectRoutes
from service.api.errors import on_http_exception, on_problem
from service.api.log import configure
from service.api.middleware import HttpMetrics, RequestMiddleware, SpanExporter, route_labels
from service.api.openapi import REFUSAL, add_security
from service.api.request_id import RequestId
from service.api.routes import TOKENIZER_ROUTES, routers
from service.api.routes.docs import add_docs
from service.api.routes.page import add_page
from service.api.services import Services
from service.api.shedding import report_to
from service.errors import ProblemError
from service.jobs.queue import JobQueue, NoJobQueue
from service.keys import KeyRing
from service.sandbox.pool import MediaPool
from service.settings import Settings
from service.stored_answer import KeyedAnswers
from service.types import Backend, Generated, GenerateJob, GeneratorBackend, GeneratorCard


class NoGenerators:
    """The `GeneratorBackend` of a service without generators."""

    async def generators(self) -> list[GeneratorCard]:
        """Return nothing."""
        return []

    async def generate(self, job: GenerateJob, *arguments: Any, **options: Any) -> Generated:
        """Refuse; no card leads here."""
        raise ProblemError("unknown-model", f"No generator is served here, so {job.model} is unknown.")


def create_app(
    backend: Backend,
    media: MediaPool,
    settings: Settings,
    metrics: HttpMetrics | None = None,
    generators: GeneratorBackend | None = None,
    replica: str | None = None,
    jobs: JobQueue | None = None,
    keyed: KeyedAnswers | None = None,
    exporter: SpanExporter | None = None,
) -> FastAPI:
    """Return the application of one ingress replica.

    Args:
        backend: the tokenizer tier.
        media: the media pool, which its owner starts and stops.
        settings: limits and deadlines.
        metrics: where requests are counted; None counts nothing.
        generators: the generators; None for a service that only encodes and decodes.
        replica: the name of this process in the log.
        jobs: the queue of jobs, which a `Runner` works on; None keeps none.
        keyed: answers by idempotency key; None for those of this process alone.
        exporter: of spans; None exports nothing.

    Raises:
        KeyFileError: the file of keys cannot be used.
    """
    configure(settings.log, replica)

    app = FastAPI(
        title="omnitok",
        description="Images and videos to tokens or latents, and back, and new ones by class.",
        version=version("omnitok"),
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses=REFUSAL,
    )
    app.add_exception_handler(ProblemError, on_problem)
    app.add_exception_handler(MediaError, on_problem)
    app.add_exception_handler(HTTPException, on_http_exception)
    app.state.services = services = Services(
        backend, generators or NoGenerators(), media, settings, jobs or NoJobQueue(), keyed
    )
    add_docs(app)
    add_page(app)
    routes = list(app.routes)
    for router in routers():
        app.include_router(router)
        app.include_router(router, prefix="/v1", include_in_schema=False)
        routes += router.routes
    app.state.routes = routes
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        schema = describe()
        add_security(schema, required=settings.keys is not None)
        return schema

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI's own pages extend it
    app.add_middleware(DirectRoutes, routes=TOKENIZER_ROUTES, services=services)
    if settings.keys is not None:
        app.add_middleware(Authentication, keys=KeyRing(settings.keys, settings.ingress_replicas))
    labels = route_labels(routes)
    report_to(None if metrics is None else metrics.observe, labels)
    app.add_middleware(
        RequestMiddleware,
        metrics=metrics,
        labels=labels,
        exporter=exporter,
        trace_ratio=settings.trace_ratio,
    )
    if settings.cors_origins:
        app.add_middleware(Cors, origins=settings.cors_origins)
    app.add_middleware(RequestId)  # the last one added is the outermost
    return app
