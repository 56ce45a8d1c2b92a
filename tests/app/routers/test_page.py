from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from app.routers.page import FOLDER
from app.settings import Settings

pytestmark = pytest.mark.anyio

SCRIPTS = (*FOLDER.glob("*.js"), *(FOLDER / "client").glob("*.js"))


@pytest.fixture
async def client(settings: Settings, run: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client without a key."""
    async with (
        run(settings) as app,
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client,
    ):
        yield client


async def test_the_page_needs_no_key_and_restricts_its_origin(client: httpx.AsyncClient) -> None:
    page = await client.get("/")
    assert page.status_code == 200
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    rules = page.headers["Content-Security-Policy"].split("; ")
    assert "default-src 'self'" in rules
    assert "require-trusted-types-for 'script'" in rules
    assert "unsafe" not in page.headers["Content-Security-Policy"]
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    assert page.headers["Referrer-Policy"] == "no-referrer"
    assert (await client.head("/")).status_code == 200
    rejected = await client.post("/")
    assert rejected.status_code in (401, 405)


async def test_every_file_the_page_refers_to_exists(client: httpx.AsyncClient) -> None:
    paths = set(re.findall(r'(?:src|href)="(/[^"#]+)"', (await client.get("/")).text))
    for path in SCRIPTS:
        text = path.read_text(encoding="utf-8")
        folder = f"/static/{path.parent.relative_to(FOLDER)}/".replace("/./", "/")
        paths |= {folder + name for name in re.findall(r'(?:from |URL\()"\./([^"]+)"', text)}
        paths |= set(re.findall(r'"(/static/[^"]+)"', text))
    paths.remove("/docs")  # needs a key, which the page adds
    assert len(paths) > 20
    for path in paths:
        response = await client.get(path)
        assert response.status_code == 200, path
        assert "javascript" in response.headers["Content-Type"] or not path.endswith(".js")
        assert response.headers["Content-Security-Policy"]


async def test_an_unchanged_file_is_304(client: httpx.AsyncClient) -> None:
    first = await client.get("/static/main.js")
    again = await client.get("/static/main.js", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("path", ["nothing.js", "", "..%2fmain.py", "%2e%2e/%2e%2e/.env", "/etc/passwd", "a%00b"])
async def test_other_paths_are_not_served(client: httpx.AsyncClient, path: str) -> None:
    response = await client.get(f"/static/{path}")
    assert response.status_code in (401, 404)
    assert response.headers["Content-Type"] == "application/json"


def test_the_page_refers_to_no_other_origin() -> None:
    for path in (*(each for each in FOLDER.iterdir() if each.is_file()), *SCRIPTS):
        urls = re.findall(r"(?:https?:)?//[\w.-]+\.\w+", path.read_text(encoding="utf-8"))
        assert set(urls) <= {"http://www.w3.org"}, path.name  # the SVG namespace


def test_the_page_never_parses_text_as_html() -> None:
    for path in SCRIPTS:
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", path.read_text("utf-8"))
