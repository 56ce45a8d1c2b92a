from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from app.routers.page import FOLDER
from app.settings import Settings

pytestmark = pytest.mark.anyio


@pytest.fixture
async def client(settings: Settings, run: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Without a key."""
    async with (
        run(settings) as app,
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client,
    ):
        yield client


async def test_the_page_is_open_and_bound_to_its_own_origin(client: httpx.AsyncClient) -> None:
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
    wrong = await client.post("/")
    assert wrong.status_code in (401, 405)


async def test_whatever_the_page_names_is_there(client: httpx.AsyncClient) -> None:
    named = set(re.findall(r'(?:src|href)="(/[^"#]+)"', (await client.get("/")).text))
    for path in FOLDER.glob("*.js"):
        text = path.read_text(encoding="utf-8")
        named |= {f"/static/{name}" for name in re.findall(r'from "\./([^"]+)"', text)}
        named |= set(re.findall(r'"(/static/[^"]+)"', text))
    assert len(named) > 20
    for path in named:
        answer = await client.get(path)
        assert answer.status_code == 200, path
        assert "javascript" in answer.headers["Content-Type"] or not path.endswith(".js")
        assert answer.headers["Content-Security-Policy"]


async def test_a_file_that_has_not_changed_is_not_sent_again(client: httpx.AsyncClient) -> None:
    first = await client.get("/static/main.js")
    again = await client.get("/static/main.js", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("path", ["nothing.js", "", "..%2fmain.py", "%2e%2e/%2e%2e/.env", "/etc/passwd", "a%00b"])
async def test_nothing_else_is_given_out(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(f"/static/{path}")
    assert answer.status_code in (401, 404)
    assert answer.headers["Content-Type"] == "application/json"


def test_the_page_names_no_other_address() -> None:
    for path in FOLDER.iterdir():
        addresses = re.findall(r"(?:https?:)?//[\w.-]+\.\w+", path.read_text(encoding="utf-8"))
        assert set(addresses) <= {"http://www.w3.org"}, path.name  # the name of SVG


def test_the_page_makes_no_html_of_text() -> None:
    for path in FOLDER.glob("*.js"):
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", path.read_text("utf-8"))
