"""The ingress application: routes, errors and life of the HTTP tier, with neither ray nor torch."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.metadata import version
from importlib.resources import files

from fastapi import APIRouter, FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.staticfiles import StaticFiles

from media.errors import MediaError
from service.api.cors import Cors
from service.api.errors import on_http_exception, on_problem
from service.api.info import info_router
from service.api.log import configure
from service.api.metrics import HttpMetrics, NoMetrics
from service.api.middleware import RequestMiddleware
from service.api.openapi import describe
from service.api.request_id import RequestId
from service.api.work import TokenizerRoutes
from service.errors import ProblemError
from service.operations.options import DecodeOptions, EncodeOptions, ReconstructOptions
from service.sandbox.pool import MediaPool
from service.settings import Settings
from service.types import Backend

ASSETS = "/docs/assets"
Handler = Callable[[Request], Awaitable[Response]]


def create_app(backend: Backend, media: MediaPool, settings: Settings, metrics: HttpMetrics | None = None) -> FastAPI:
    """The application of one ingress replica.

    Args:
        backend: the tokenizer tier.
        media: the media pool, which its owner starts and stops.
        settings: limits and deadlines.
        metrics: where requests are counted; None counts nothing.
    """
    configure()

    app = FastAPI(
        title="OmniTokenizer service",
        description="Images and videos to tokens or latents, and back.",
        version=version("omnitok"),
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.add_middleware(RequestMiddleware, metrics=metrics or NoMetrics())
    if settings.cors_origins:
        app.add_middleware(Cors, origins=settings.cors_origins)
    app.add_middleware(RequestId)  # the last one added is the outermost
    app.add_exception_handler(ProblemError, on_problem)
    app.add_exception_handler(MediaError, on_problem)
    app.add_exception_handler(HTTPException, on_http_exception)
    for router in (_work_router(TokenizerRoutes(backend, media, settings)), info_router(backend, media, settings)):
        app.include_router(router)
        app.include_router(router, prefix="/v1", include_in_schema=False)
    _add_docs(app)
    return app


def _work_router(routes: TokenizerRoutes) -> APIRouter:
    router = APIRouter(tags=["tokenizer"])

    def add(handler: Handler, options: type[BaseModel], media: bool, codes: bool) -> None:
        router.add_api_route(
            f"/{handler.__name__}",
            handler,
            methods=["POST"],
            openapi_extra=describe(options, of_media=media, answers_codes=codes),
            response_class=Response,
        )

    add(routes.encode, EncodeOptions, media=True, codes=True)
    add(routes.decode, DecodeOptions, media=False, codes=False)
    add(routes.reconstruct, ReconstructOptions, media=True, codes=False)
    return router


def _add_docs(app: FastAPI) -> None:
    """Swagger's page with its assets from an installed package, so that it works without the internet."""
    assets = StaticFiles(directory=str(files("fastapi_offline") / "static"))
    app.mount(ASSETS, assets, name="docs-assets")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url="/openapi.json",
            title=app.title,
            swagger_js_url=f"{ASSETS}/swagger-ui-bundle.js",
            swagger_css_url=f"{ASSETS}/swagger-ui.css",
            swagger_favicon_url=f"{ASSETS}/favicon.png",
        )
