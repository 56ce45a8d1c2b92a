from __future__ import annotations

import asyncio
import threading
from functools import partial

import pytest

from app.threads import Workshop

pytestmark = pytest.mark.anyio


async def test_work_is_done_elsewhere_and_comes_back_in_full() -> None:
    workshop = Workshop(2, "test")

    def work(number: int) -> tuple[int, int]:
        return number, threading.get_ident()

    done = await asyncio.gather(*(workshop.do(partial(work, number)) for number in range(500)))
    assert [number for number, _ in done] == [*range(500)]
    assert threading.get_ident() not in {thread for _, thread in done}


async def test_what_goes_wrong_comes_back_too() -> None:
    with pytest.raises(ZeroDivisionError):
        await Workshop(1, "test").do(lambda: 1 // 0)


async def test_who_is_cancelled_waits_for_nothing_and_the_thread_goes_on() -> None:
    workshop, go_on = Workshop(1, "test"), threading.Event()
    waiting = asyncio.create_task(workshop.do(go_on.wait))
    never = asyncio.create_task(workshop.do(lambda: pytest.fail("nobody wants it any more")))
    await asyncio.sleep(0)
    for task in (waiting, never):
        task.cancel()
    await asyncio.gather(waiting, never, return_exceptions=True)
    go_on.set()
    assert await workshop.do(lambda: "next") == "next"
