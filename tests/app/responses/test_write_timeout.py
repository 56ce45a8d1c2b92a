from __future__ import annotations

import asyncio

import pytest

from app.responses.write_timeout import WriteTimeout

pytestmark = pytest.mark.anyio


async def test_a_send_that_hangs_ends_it() -> None:
    patience = WriteTimeout(0.02)
    hanging = asyncio.create_task(patience.send(asyncio.Event().wait()))  # type: ignore[arg-type]
    await patience.wait()
    assert not hanging.done()
    hanging.cancel()
    await asyncio.gather(hanging, return_exceptions=True)


async def test_one_send_that_gets_on_is_enough() -> None:
    patience, taken = WriteTimeout(0.2), asyncio.Event()

    async def take() -> None:
        await taken.wait()

    hanging = asyncio.create_task(patience.send(asyncio.Event().wait()))  # type: ignore[arg-type]
    ending = asyncio.create_task(patience.wait())
    since = asyncio.get_running_loop().time()
    await asyncio.sleep(0.1)
    taken.set()
    await patience.send(take())
    await ending
    assert asyncio.get_running_loop().time() - since >= 0.3 - 0.01
    hanging.cancel()
    await asyncio.gather(hanging, return_exceptions=True)


async def test_while_nothing_is_sent_there_is_nothing_to_take() -> None:
    patience = WriteTimeout(0.001)
    ending = asyncio.create_task(patience.wait())
    done, _ = await asyncio.wait({ending}, timeout=0.05)
    assert not done
    ending.cancel()
    await asyncio.gather(ending, return_exceptions=True)
