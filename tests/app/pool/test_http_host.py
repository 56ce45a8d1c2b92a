from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from app.observability.components import Components
from app.pool.http_host import HttpHost

pytestmark = pytest.mark.anyio


@pytest.fixture
def start(wait: Any) -> Callable[..., Any]:
    """Starts a host, and waits until its components are checked."""

    async def start(check: Callable[[], None]) -> tuple[HttpHost, list[str]]:
        host, calls = HttpHost(Components()), list[str]()
        host.check_components = check
        host.on_change = lambda: calls.append("change")
        assert host.status().state == "loading"
        host.start(lambda: calls.append("ready"))
        await wait(lambda: host.status().state != "loading" and "change" in calls)
        return host, calls

    return start


async def test_it_is_ready_once_its_components_are_checked(start: Any, wait: Any) -> None:
    checked: list[bool] = []
    host, calls = await start(lambda: checked.append(True))
    await wait(lambda: calls == ["change", "ready"])
    assert checked == [True]
    assert host.status().state == "ready"
    assert (host.load(), host.stalled_seconds(), host.broken) == ((0, 0, 0), 0.0, False)
    host.close()
    assert host.status().state == "closed"


async def test_it_has_failed_if_the_check_raises(start: Any, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise ImportError("no encoder")

    with caplog.at_level(logging.CRITICAL):
        host, calls = await start(fail)
    assert (host.status().state, host.status().error, calls) == ("failed", "no encoder", ["change"])
