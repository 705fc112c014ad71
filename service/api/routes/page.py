"""`GET /`: the page that shows what the tokenizers and the generators do; one folder of files, without a build."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.responses import HTMLResponse, Response

from service.api.routes.files import Files

STATIC = Path(__file__).parents[1] / "static"
ASSETS = "/static"
# Everything comes from this service; pictures that the page makes are blobs.
POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",
        "media-src 'self' blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",  # it is asked for again, so that page and service are of one version
}


class Assets(Files):
    """The files of the page, with its headers."""

    def file_response(self, *arguments: Any, **options: Any) -> Response:
        """Return a file, or 304."""
        response = super().file_response(*arguments, **options)
        response.headers.update(HEADERS)
        return response


def add_page(app: FastAPI) -> None:
    """Add the page and its files to an application."""
    app.mount(ASSETS, Assets(directory=STATIC), name="static")
    html = (STATIC / "index.html").read_bytes()

    @app.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(html, headers=HEADERS)
