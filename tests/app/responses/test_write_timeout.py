from __future__ import annotations

import asyncio

import pytest

from app.responses.write_timeout import WriteTimeout

pytestmark = pytest.mark.anyio


async def test_a_hanging_send_expires_the_timeout() -> None:
    write_timeout = WriteTimeout(0.02)
    hanging = asyncio.create_task(write_timeout.send(asyncio.Event().wait()))  # type: ignore[arg-type]
    await write_timeout.wait()
    assert not hanging.done()
    hanging.cancel()
    await asyncio.gather(hanging, return_exceptions=True)


async def test_a_completed_send_restarts_the_timeout() -> None:
    write_timeout, allowed = WriteTimeout(0.2), asyncio.Event()

    async def slow_send() -> None:
        await allowed.wait()

    hanging = asyncio.create_task(write_timeout.send(asyncio.Event().wait()))  # type: ignore[arg-type]
    waiting = asyncio.create_task(write_timeout.wait())
    started = asyncio.get_running_loop().time()
    await asyncio.sleep(0.1)
    allowed.set()
    await write_timeout.send(slow_send())
    await waiting
    assert asyncio.get_running_loop().time() - started >= 0.3 - 0.01
    hanging.cancel()
    await asyncio.gather(hanging, return_exceptions=True)


async def test_the_timeout_does_not_expire_without_a_pending_send() -> None:
    write_timeout = WriteTimeout(0.001)
    waiting = asyncio.create_task(write_timeout.wait())
    done, _ = await asyncio.wait({waiting}, timeout=0.05)
    assert not done
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
