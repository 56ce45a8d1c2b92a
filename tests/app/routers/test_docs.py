from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from app.routers.docs import ASSETS
from app.settings import Settings

pytestmark = pytest.mark.anyio


@pytest.fixture
async def client(settings: Settings, run: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client without a key."""
    async with (
        run(settings) as app,
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client,
    ):
        yield client


async def test_the_reference_needs_a_key_and_its_files_do_not(client: httpx.AsyncClient) -> None:
    assert (await client.get("/docs")).status_code == 401
    page = await client.get("/docs", params={"api_key": "first-key"})
    assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "first-key" not in page.text
    for name in ASSETS:
        assert f'"/static/swagger/{name}"' in page.text
        file = await client.get(f"/static/swagger/{name}")
        assert file.status_code == 200
        assert len(file.content) > 100_000
        again = await client.get(f"/static/swagger/{name}", headers={"If-None-Match": file.headers["ETag"]})
        assert again.status_code == 304


async def test_its_policy_is_that_of_the_web_page_but_for_what_swagger_ui_needs(client: httpx.AsyncClient) -> None:
    rules = [
        set((await client.get(path, params={"api_key": "first-key"})).headers["Content-Security-Policy"].split("; "))
        for path in ("/", "/docs")
    ]
    assert rules[0] - rules[1] == {"require-trusted-types-for 'script'", "trusted-types 'none'"}
    assert rules[1] - rules[0] == {"img-src 'self' data:"}
    assert "default-src 'self'" in rules[1]  # and no script-src: no inline script, no eval, no other origin
    assert not any("unsafe" in each for each in rules[1])


@pytest.mark.parametrize("name", ["redoc.standalone.js", "..%2f__init__.py", "favicon.png"])
async def test_no_other_file_of_the_package_is_served(client: httpx.AsyncClient, name: str) -> None:
    assert (await client.get(f"/static/swagger/{name}", params={"api_key": "first-key"})).status_code == 404
