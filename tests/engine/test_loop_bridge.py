from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from engine.loop_bridge import LoopBridge, running_loop_bridge


class CountingLoop:
    """Records wake-ups; the test runs their callbacks."""

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


def test_a_loop_is_woken_once_for_all_callbacks_before_it_runs() -> None:
    loop, ran = CountingLoop(), list[int]()
    bridge = LoopBridge(loop)  # type: ignore[arg-type]
    for turn in range(3):
        for number in range(100):
            assert bridge.call(lambda number=number: ran.append(number))  # type: ignore[misc]
        assert len(loop.woken) == turn + 1
        loop.woken[-1]()
        assert ran == [*range(100)] * (turn + 1)


def test_a_callback_submitted_by_a_callback_runs_too() -> None:
    loop, ran = CountingLoop(), list[str]()
    bridge = LoopBridge(loop)  # type: ignore[arg-type]
    bridge.call(lambda: bridge.call(lambda: ran.append("late")))
    loop.woken[0]()
    for callback in loop.woken[1:]:
        callback()
    assert ran == ["late"]


def test_a_failing_callback_does_not_stop_the_others() -> None:
    loop, ran = CountingLoop(), list[int]()
    bridge = LoopBridge(loop)  # type: ignore[arg-type]
    bridge.call(lambda: 1 // 0)
    bridge.call(lambda: ran.append(1))
    loop.woken[0]()
    assert ran == [1]
    assert isinstance(loop.errors[0]["exception"], ZeroDivisionError)


@pytest.mark.parametrize("submitted", [0, 1])
def test_call_returns_false_for_a_closed_loop(submitted: int) -> None:
    loop = CountingLoop()
    bridge = LoopBridge(loop)  # type: ignore[arg-type]
    for _ in range(submitted):
        bridge.call(lambda: None)
    loop.closed = True
    assert not bridge.call(lambda: None)
    assert not bridge.call(lambda: None)


def test_no_callback_from_many_threads_is_lost() -> None:
    async def main() -> int:
        bridge, ran, done = running_loop_bridge(), list[int](), asyncio.Event()
        assert running_loop_bridge() is bridge

        def note() -> None:
            ran.append(1)
            if len(ran) == 4000:
                done.set()

        def submit() -> None:
            for _ in range(1000):
                bridge.call(note)

        threads = [threading.Thread(target=submit) for _ in range(4)]
        for thread in threads:
            thread.start()
        await done.wait()
        for thread in threads:
            thread.join()
        return len(ran)

    assert asyncio.run(main()) == 4000


def test_each_loop_has_its_own_bridge() -> None:
    async def bridge() -> LoopBridge:
        return running_loop_bridge()

    assert asyncio.run(bridge()) is not asyncio.run(bridge())
