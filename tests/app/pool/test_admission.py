from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

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

    def __init__(self, admission: Admission, permits: int = 1, **options: Any) -> None:
        self.admitted = False
        self._released = asyncio.Event()
        self.task = asyncio.create_task(self._hold(admission, permits, options))

    async def _hold(self, admission: Admission, permits: int, options: dict[str, Any]) -> None:
        async with admission.reserve(permits, **options):
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
        with pytest.raises(Busy, match="the only slot is taken, and none may wait") as caught:
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


async def serve(admission: Admission, keys: dict[str, int], weights: dict[str, float] | None = None) -> str:
    """The order in which requests of several keys get a slot, one letter each: all wait, then one after another ends.

    keys: how many requests each has, in the order in which they come.
    """
    weights = weights or {}
    blocking = [Holder(admission, key="blocking") for _ in range(admission.capacity)]
    await settle()
    waiting = []
    for key, count in keys.items():
        waiting += [(key, Holder(admission, key=key, weight=weights.get(key, 1.0))) for _ in range(count)]
    await settle()
    assert admission.queued == len(waiting)
    order = ""
    running = list(blocking)
    while waiting or running:
        await running.pop(0).leave()
        for key, holder in list(waiting):
            if holder.admitted:
                order += key
                running.append(holder)
                waiting.remove((key, holder))
    assert (admission.active, admission.queued, admission._lanes) == (0, 0, {})
    return order


@pytest.mark.parametrize("capacity", [1, 3])
async def test_a_single_request_waits_for_one_turn_of_a_key_with_a_hundred(capacity: int) -> None:
    order = await serve(Admission(capacity, 200, 60), {"a": 100, "b": 1})
    assert order.index("b") <= 1


async def test_keys_take_turns_by_their_weights() -> None:
    assert await serve(Admission(1, 200, 60), {"a": 6, "b": 6}) == "abababababab"
    assert await serve(Admission(1, 200, 60), {"a": 8, "b": 4}, {"a": 2}) == "abaabaabaaba"
    assert await serve(Admission(1, 200, 60), {"a": 4, "b": 2, "c": 4}) == "abcabcacac"


async def test_slots_are_shared_by_how_many_each_key_holds() -> None:
    admission = Admission(4, 100, 60)
    greedy = [Holder(admission, key="a") for _ in range(12)]
    await settle()
    modest = [Holder(admission, key="b") for _ in range(4)]
    await settle()
    for number in range(3):
        await next(each for each in greedy if each.admitted).leave()
        held = [sum(each.admitted for each in group) for group in (greedy, modest)]
        assert held == [[3, 1], [2, 2], [2, 2]][number]  # half of them each, and no more
    for each in (*greedy, *modest):
        await each.leave()
    assert (admission.active, admission.queued, admission._lanes) == (0, 0, {})


async def test_what_a_key_did_not_use_is_not_made_up_for() -> None:
    admission = Admission(1, 100, 60)
    for _ in range(20):
        holder = Holder(admission, key="a")
        await settle()
        await holder.leave()
    assert await serve(admission, {"a": 3, "b": 3}) == "ababab"


async def test_a_full_queue_has_a_place_for_a_key_with_fewer_waiting() -> None:
    admission = Admission(1, 3, 60)
    first, *queued = [Holder(admission, key="a") for _ in range(4)]
    await settle()
    other = Holder(admission, key="b")
    await settle()
    assert queued[-1].task.done()
    assert isinstance(queued[-1].task.exception(), Busy)
    assert admission.queued == 3
    second = Holder(admission, key="b")  # as many as the other key then: no place
    await settle()
    assert isinstance(second.task.exception(), Busy)
    refused = Holder(admission, key="a")
    await settle()
    assert isinstance(refused.task.exception(), Busy)
    await first.leave()
    assert other.admitted
    for each in (other, *queued[:2]):
        await each.leave()
    assert (admission.active, admission.queued, admission._lanes) == (0, 0, {})


async def test_a_resumed_request_goes_before_those_of_all_keys() -> None:
    admission = Admission(1, 3, 60)
    speaking = Holder(admission, key="a")
    await settle()
    waiting = [Holder(admission, key=key) for key in "abc"]
    await settle()
    resumed = [Holder(admission, key="a", first=True) for _ in range(2)]  # though the queue is full
    await settle()
    assert admission.queued == 5
    order = [speaking]
    for _ in range(5):
        await order[-1].leave()
        order += [each for each in (*waiting, *resumed) if each.admitted and each not in order]
    assert order[1:] == [*resumed, waiting[1], waiting[2], waiting[0]]
    await order[-1].leave()
    assert (admission.active, admission.queued, admission._lanes) == (0, 0, {})


async def test_cancelled_requests_of_a_key_leave_the_turn_to_others() -> None:
    admission = Admission(1, 100, 60)
    first, last = Holder(admission, key="a"), Holder(admission, key="a")
    await settle()
    waiting = [Holder(admission, key="b") for _ in range(3)]
    await settle()
    for each in waiting[:2]:
        each.task.cancel()
    first._released.set()
    waiting[2].task.cancel()
    await settle()
    assert last.admitted
    await last.leave()
    assert (admission.active, admission.queued, admission._lanes) == (0, 0, {})
