"""The interactive reference at `/docs`: Swagger UI, from files of the `fastapi-offline` package.

`/docs` needs a key, as the description at `/openapi.json` does: `/docs?api_key=KEY`, or the link on the web page. The
page itself is a static file, `/static/docs.html`, open to everybody as the files of Swagger UI are: it asks for a key
where it has none, and a browser that loads it again stays there. Nothing is loaded from another origin.
"""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from starlette.staticfiles import StaticFiles

from ..errors import NotFound
from ..schemas.errors import error_responses
from .page import POLICY, file_response, with_headers

ASSETS = frozenset({"swagger-ui-bundle.js", "swagger-ui.css"})

# As on the web page, except for what Swagger UI needs: its style sheet holds its icons, and it renders descriptions as
# HTML, which it sanitizes itself and which cannot run: scripts come from files of this origin only.
_POLICY = {name: value for name, value in POLICY.items() if "trusted-types" not in name} | {"img-src": "'self' data:"}

_files = StaticFiles(packages=[("fastapi_offline", "static")])

router = APIRouter(tags=["system"])


@router.get("/docs", response_class=Response, responses={200: {"content": {"text/html": {}}}, **error_responses(401)})
async def docs(request: Request) -> Response:
    """An interactive reference of this API, with assets of its own."""
    return await file_response("docs.html", request, _POLICY)


@router.get("/static/docs.html", include_in_schema=False)
async def page(request: Request) -> Response:
    """The page of `/docs`."""
    return await file_response("docs.html", request, _POLICY)


@router.get("/static/swagger/{name}", include_in_schema=False)
async def asset(name: str, request: Request) -> Response:
    """A file of Swagger UI."""
    if name not in ASSETS:
        raise NotFound(f"there is no /static/swagger/{name[:60]}: see /docs")
    return with_headers(await _files.get_response(name, request.scope), _POLICY)
