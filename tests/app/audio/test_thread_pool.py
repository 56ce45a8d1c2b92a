from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from app.audio.thread_pool import ThreadPool
from app.errors import ComponentFailed

pytestmark = pytest.mark.anyio


async def test_work_is_done_elsewhere_and_comes_back_in_full() -> None:
    pool = ThreadPool(2, "test")

    def work(number: int) -> tuple[int, int]:
        return number, threading.get_ident()

    done = await asyncio.gather(*(pool.run(partial(work, number)) for number in range(500)))
    assert [number for number, _ in done] == [*range(500)]
    assert threading.get_ident() not in {thread for _, thread in done}


async def test_what_goes_wrong_comes_back_too() -> None:
    with pytest.raises(ZeroDivisionError):
        await ThreadPool(1, "test").run(lambda: 1 // 0)


async def test_who_is_cancelled_waits_for_nothing_and_the_thread_goes_on() -> None:
    pool, go_on = ThreadPool(1, "test"), threading.Event()
    waiting = asyncio.create_task(pool.run(go_on.wait))
    never = asyncio.create_task(pool.run(lambda: pytest.fail("nobody wants it any more")))
    await asyncio.sleep(0)
    for task in (waiting, never):
        task.cancel()
    await asyncio.gather(waiting, never, return_exceptions=True)
    go_on.set()
    assert await pool.run(lambda: "next") == "next"


# ---- where threads cannot be had


@pytest.fixture
def none_start(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """No thread can be started, until this is undone."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        yield patch


def watched(threads: int) -> tuple[ThreadPool, list[str | None]]:
    told: list[str | None] = []
    pool = ThreadPool(threads, "test")
    pool.on_state = lambda error, detail: told.append(error)
    return pool, told


async def test_work_that_no_thread_does_is_refused_and_done_once_there_is_one(none_start: pytest.MonkeyPatch) -> None:
    pool, told = watched(2)
    for _ in range(2):
        with pytest.raises(ComponentFailed, match="cannot start another thread") as refused:
            await pool.run(lambda: "done")
        assert (refused.value.code, refused.value.headers) == ("threads_failed", {})
    assert told == ["no thread can be started: can't start new thread"] * 2
    none_start.undo()
    assert await pool.run(lambda: "done") == "done"
    assert told[2:] == [None]


async def test_one_thread_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    pool, told = watched(2)
    start, started = threading.Thread.start, []

    def start_one(thread: threading.Thread) -> None:
        if started:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_one)
    assert await pool.run(lambda: "done") == "done"
    assert [error is None for error in told] == [False]


async def test_an_executor_that_has_no_thread_says_so(none_start: pytest.MonkeyPatch) -> None:
    pool, told = watched(1)
    with ThreadPoolExecutor(1) as executor:
        with pytest.raises(ComponentFailed):
            await pool.run_in_executor(executor, lambda: "done")
        none_start.undo()
        assert await pool.run_in_executor(executor, lambda: "done") == "done"
    assert [error is None for error in told] == [False, True]


@pytest.mark.parametrize("error", [SystemExit(3), StopIteration()])
async def test_a_thread_survives_whatever_its_work_raises(error: BaseException) -> None:
    pool = ThreadPool(1, "test")

    def work() -> None:
        raise error

    with pytest.raises(RuntimeError, match=type(error).__name__):
        await pool.run(work)
    assert await pool.run(lambda: "next") == "next"
