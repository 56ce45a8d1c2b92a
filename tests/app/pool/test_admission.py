from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from app.errors import Busy, Unavailable, Unprocessable
from app.pool.admission import Admission

pytestmark = pytest.mark.anyio


async def settle() -> None:
    """Let every task go as far as it can."""
    for _ in range(10):
        await asyncio.sleep(0)


class Visitor:
    """A request in a task: waits for its permits, then holds them until it is told to go."""

    def __init__(self, admission: Admission, permits: int = 1) -> None:
        self.inside = False
        self._go = asyncio.Event()
        self.task = asyncio.create_task(self._visit(admission, permits))

    async def _visit(self, admission: Admission, permits: int) -> None:
        async with admission.reserve(permits):
            self.inside = True
            await self._go.wait()
        self.inside = False

    async def leave(self) -> None:
        self._go.set()
        await settle()


async def test_permits_are_handed_out_in_order() -> None:
    admission = Admission(2, 10, 60)
    visitors = [Visitor(admission) for _ in range(4)]
    await settle()
    assert [each.inside for each in visitors] == [True, True, False, False]
    assert (admission.active, admission.queued) == (2, 2)
    await visitors[1].leave()
    assert [each.inside for each in visitors] == [True, False, True, False]
    for each in visitors:
        await each.leave()
    assert (admission.active, admission.queued) == (0, 0)


async def test_nobody_overtakes_a_request_for_two() -> None:
    admission = Admission(2, 10, 60)
    first = Visitor(admission)
    await settle()
    pair, single = Visitor(admission, 2), Visitor(admission)
    await settle()
    assert not pair.inside
    assert not single.inside
    await first.leave()
    assert pair.inside
    assert admission.active == 2
    await pair.leave()
    assert single.inside
    await single.leave()


async def test_a_full_queue_refuses_at_once_and_says_when_to_come_back() -> None:
    admission = Admission(1, 0, 60)
    async with admission.reserve():
        with pytest.raises(Busy, match="1 slots are taken") as caught:
            async with admission.reserve():
                pass
    assert caught.value.headers["Retry-After"]
    assert (admission.active, admission.queued) == (0, 0)


async def test_the_wait_is_bounded() -> None:
    admission = Admission(1, 1, 0.01)
    async with admission.reserve():
        with pytest.raises(Busy, match=r"within 0\.01 seconds"):
            async with admission.reserve():
                pass
        assert admission.queued == 0
    assert admission.active == 0


async def test_a_cancelled_waiter_leaves_no_trace() -> None:
    admission = Admission(1, 10, 60)
    holder, waiter, next_one = (Visitor(admission) for _ in range(3))
    await settle()
    waiter.task.cancel()
    await settle()
    assert admission.queued == 1
    await holder.leave()
    assert next_one.inside
    await next_one.leave()
    assert admission.active == 0


async def test_a_permit_granted_in_the_moment_of_cancelling_goes_on() -> None:
    admission = Admission(1, 10, 60)
    holder, waiter, next_one = (Visitor(admission) for _ in range(3))
    await settle()
    holder._go.set()
    await asyncio.sleep(0)  # the holder releases, the waiter is granted and has not run yet
    waiter.task.cancel()
    await settle()
    assert waiter.task.cancelled()
    assert next_one.inside
    await next_one.leave()
    assert (admission.active, admission.queued) == (0, 0)


async def test_a_waiter_cancelled_in_the_moment_of_a_release_is_passed_over() -> None:
    admission = Admission(1, 10, 60)
    holder, waiter, next_one = (Visitor(admission) for _ in range(3))
    await settle()
    holder._go.set()
    waiter.task.cancel()  # it has not run yet when the holder releases
    await settle()
    assert next_one.inside
    await next_one.leave()
    assert (admission.active, admission.queued) == (0, 0)


async def test_the_request_for_two_that_leaves_lets_those_behind_it_in() -> None:
    admission = Admission(2, 10, 60)
    first = Visitor(admission)
    await settle()
    pair, single = Visitor(admission, 2), Visitor(admission)
    await settle()
    pair.task.cancel()
    await settle()
    assert single.inside
    for each in (first, single):
        await each.leave()


async def test_more_permits_than_there_are_can_never_be_had() -> None:
    with pytest.raises(Unprocessable, match="takes 2 slots"):
        async with Admission(1, 10, 60).reserve(2):
            pass


async def test_closing_turns_everybody_away() -> None:
    admission = Admission(1, 10, 60)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(admission.reserve())
        waiter = Visitor(admission)
        await settle()
        admission.close()
        with pytest.raises(Unavailable):
            await waiter.task
        with pytest.raises(Unavailable):
            await stack.enter_async_context(admission.reserve())
    assert (admission.active, admission.queued) == (0, 0)
