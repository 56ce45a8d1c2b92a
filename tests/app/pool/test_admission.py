from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from app.errors import Busy, Unavailable, Unprocessable
from app.pool.admission import Admission

pytestmark = pytest.mark.anyio


async def settle() -> None:
    """Let every task run until it waits."""
    for _ in range(10):
        await asyncio.sleep(0)


class Holder:
    """A task that waits for its permits, then holds them until `leave`."""

    def __init__(self, admission: Admission, permits: int = 1) -> None:
        self.admitted = False
        self._released = asyncio.Event()
        self.task = asyncio.create_task(self._hold(admission, permits))

    async def _hold(self, admission: Admission, permits: int) -> None:
        async with admission.reserve(permits):
            self.admitted = True
            await self._released.wait()
        self.admitted = False

    async def leave(self) -> None:
        self._released.set()
        await settle()


async def test_permits_are_granted_in_order() -> None:
    admission = Admission(2, 10, 60)
    holders = [Holder(admission) for _ in range(4)]
    await settle()
    assert [each.admitted for each in holders] == [True, True, False, False]
    assert (admission.active, admission.queued) == (2, 2)
    await holders[1].leave()
    assert [each.admitted for each in holders] == [True, False, True, False]
    for each in holders:
        await each.leave()
    assert (admission.active, admission.queued) == (0, 0)


async def test_a_request_for_two_permits_is_not_overtaken() -> None:
    admission = Admission(2, 10, 60)
    first = Holder(admission)
    await settle()
    pair, single = Holder(admission, 2), Holder(admission)
    await settle()
    assert not pair.admitted
    assert not single.admitted
    await first.leave()
    assert pair.admitted
    assert admission.active == 2
    await pair.leave()
    assert single.admitted
    await single.leave()


async def test_a_full_queue_refuses_immediately_with_retry_after() -> None:
    admission = Admission(1, 0, 60)
    async with admission.reserve():
        with pytest.raises(Busy, match="1 slots are taken") as caught:
            async with admission.reserve():
                pass
    assert caught.value.headers["Retry-After"]
    assert (admission.active, admission.queued) == (0, 0)


async def test_a_wait_times_out() -> None:
    admission = Admission(1, 1, 0.01)
    async with admission.reserve():
        with pytest.raises(Busy, match=r"within 0\.01 seconds"):
            async with admission.reserve():
                pass
        assert admission.queued == 0
    assert admission.active == 0


async def test_a_cancelled_waiter_leaves_the_queue() -> None:
    admission = Admission(1, 10, 60)
    holder, waiter, successor = (Holder(admission) for _ in range(3))
    await settle()
    waiter.task.cancel()
    await settle()
    assert admission.queued == 1
    await holder.leave()
    assert successor.admitted
    await successor.leave()
    assert admission.active == 0


async def test_a_permit_granted_while_its_waiter_is_cancelled_goes_to_the_next() -> None:
    admission = Admission(1, 10, 60)
    holder, waiter, successor = (Holder(admission) for _ in range(3))
    await settle()
    holder._released.set()
    await asyncio.sleep(0)  # the holder releases, the waiter is granted and has not run yet
    waiter.task.cancel()
    await settle()
    assert waiter.task.cancelled()
    assert successor.admitted
    await successor.leave()
    assert (admission.active, admission.queued) == (0, 0)


async def test_a_waiter_cancelled_during_a_release_is_skipped() -> None:
    admission = Admission(1, 10, 60)
    holder, waiter, successor = (Holder(admission) for _ in range(3))
    await settle()
    holder._released.set()
    waiter.task.cancel()  # it has not run yet when the holder releases
    await settle()
    assert successor.admitted
    await successor.leave()
    assert (admission.active, admission.queued) == (0, 0)


async def test_a_cancelled_request_for_two_admits_those_behind_it() -> None:
    admission = Admission(2, 10, 60)
    first = Holder(admission)
    await settle()
    pair, single = Holder(admission, 2), Holder(admission)
    await settle()
    pair.task.cancel()
    await settle()
    assert single.admitted
    for each in (first, single):
        await each.leave()


async def test_more_permits_than_the_capacity_are_unprocessable() -> None:
    with pytest.raises(Unprocessable, match="takes 2 slots"):
        async with Admission(1, 10, 60).reserve(2):
            pass


async def test_closing_refuses_waiting_and_new_requests() -> None:
    admission = Admission(1, 10, 60)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(admission.reserve())
        waiter = Holder(admission)
        await settle()
        admission.close()
        with pytest.raises(Unavailable):
            await waiter.task
        with pytest.raises(Unavailable):
            await stack.enter_async_context(admission.reserve())
    assert (admission.active, admission.queued) == (0, 0)
