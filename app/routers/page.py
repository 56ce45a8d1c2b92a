"""The web page at `/` and its static files. They need no API key: the page itself asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.staticfiles import StaticFiles

FOLDER = Path(__file__).parents[1] / "static"

# The page loads resources from its own origin only and never parses text as HTML; this makes the browser enforce it.
POLICY = {
    "default-src": "'self'",
    "media-src": "'self' blob:",
    "object-src": "'none'",
    "base-uri": "'none'",
    "form-action": "'none'",  # scripts read its forms; a submitted form would put the key into the URL
    "frame-ancestors": "'none'",
    "require-trusted-types-for": "'script'",
    "trusted-types": "'none'",
}
_HEADERS = {
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",  # revalidated on every load, usually with 304, so that updates apply at once
}

_files = StaticFiles(directory=FOLDER, follow_symlink=True)  # client/ is clients/js/src

router = APIRouter(include_in_schema=False)


@router.api_route("/", methods=["GET", "HEAD"])
async def page(request: Request) -> Response:
    """The web page."""
    return await file_response("index.html", request)


@router.api_route("/static/{path:path}", methods=["GET", "HEAD"])
async def static(path: str, request: Request) -> Response:
    """A file of the page."""
    return await file_response(path, request)


async def file_response(path: str, request: Request, policy: Mapping[str, str] = POLICY) -> Response:
    """A file of the folder, with the headers of all files."""
    return with_headers(await _files.get_response(path, request.scope), policy)


def with_headers(response: Response, policy: Mapping[str, str]) -> Response:
    """The response with a policy, as (directive, its values), and the headers of all files."""
    rules = "; ".join(f"{directive} {values}" for directive, values in policy.items())
    response.headers.update({"Content-Security-Policy": rules, **_HEADERS})
    return response
