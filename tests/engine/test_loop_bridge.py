from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from engine.loop_bridge import Waker, running_waker


class CountingLoop:
    """Counts how often it is woken, and looks only when it is told to."""

    def __init__(self) -> None:
        self.woken: list[Any] = []
        self.errors: list[dict[str, Any]] = []
        self.closed = False

    def call_soon_threadsafe(self, callback: Any) -> None:
        if self.closed:
            raise RuntimeError("Event loop is closed")
        self.woken.append(callback)

    def is_closed(self) -> bool:
        return self.closed

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.errors.append(context)


def test_a_loop_is_woken_once_for_all_that_comes_before_it_looks() -> None:
    loop, ran = CountingLoop(), list[int]()
    waker = Waker(loop)  # type: ignore[arg-type]
    for turn in range(3):
        for number in range(100):
            assert waker.call(lambda number=number: ran.append(number))  # type: ignore[misc]
        assert len(loop.woken) == turn + 1
        loop.woken[-1]()
        assert ran == [*range(100)] * (turn + 1)


def test_what_is_handed_in_while_it_looks_is_seen_too() -> None:
    loop, ran = CountingLoop(), list[str]()
    waker = Waker(loop)  # type: ignore[arg-type]
    waker.call(lambda: waker.call(lambda: ran.append("late")))
    loop.woken[0]()
    for look in loop.woken[1:]:
        look()
    assert ran == ["late"]


def test_one_that_fails_keeps_no_other_from_running() -> None:
    loop, ran = CountingLoop(), list[int]()
    waker = Waker(loop)  # type: ignore[arg-type]
    waker.call(lambda: 1 // 0)
    waker.call(lambda: ran.append(1))
    loop.woken[0]()
    assert ran == [1]
    assert isinstance(loop.errors[0]["exception"], ZeroDivisionError)


@pytest.mark.parametrize("handed_in", [0, 1])
def test_a_closed_loop_runs_nothing_and_says_so(handed_in: int) -> None:
    loop = CountingLoop()
    waker = Waker(loop)  # type: ignore[arg-type]
    for _ in range(handed_in):
        waker.call(lambda: None)
    loop.closed = True
    assert not waker.call(lambda: None)
    assert not waker.call(lambda: None)


def test_nothing_from_many_threads_is_lost() -> None:
    async def main() -> int:
        waker, ran, done = running_waker(), list[int](), asyncio.Event()
        assert running_waker() is waker

        def note() -> None:
            ran.append(1)
            if len(ran) == 4000:
                done.set()

        def hand_in() -> None:
            for _ in range(1000):
                waker.call(note)

        threads = [threading.Thread(target=hand_in) for _ in range(4)]
        for thread in threads:
            thread.start()
        await done.wait()
        for thread in threads:
            thread.join()
        return len(ran)

    assert asyncio.run(main()) == 4000


def test_each_loop_has_its_own() -> None:
    async def mine() -> Waker:
        return running_waker()

    assert asyncio.run(mine()) is not asyncio.run(mine())
