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


async def test_work_runs_in_threads_and_every_result_returns() -> None:
    pool = ThreadPool(2, "test")

    def work(number: int) -> tuple[int, int]:
        return number, threading.get_ident()

    results = await asyncio.gather(*(pool.run(partial(work, number)) for number in range(500)))
    assert [number for number, _ in results] == [*range(500)]
    assert threading.get_ident() not in {thread for _, thread in results}


async def test_exceptions_are_raised_to_the_caller() -> None:
    with pytest.raises(ZeroDivisionError):
        await ThreadPool(1, "test").run(lambda: 1 // 0)


async def test_a_cancelled_caller_does_not_wait_and_the_thread_survives() -> None:
    pool, go_on = ThreadPool(1, "test"), threading.Event()
    waiting = asyncio.create_task(pool.run(go_on.wait))
    cancelled = asyncio.create_task(pool.run(lambda: pytest.fail("it was cancelled before it started")))
    await asyncio.sleep(0)
    for task in (waiting, cancelled):
        task.cancel()
    await asyncio.gather(waiting, cancelled, return_exceptions=True)
    go_on.set()
    assert await pool.run(lambda: "next") == "next"


# ---- without threads


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Thread.start raises until this is undone."""

    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        yield patch


def reporting_pool(threads: int) -> tuple[ThreadPool, list[str | None]]:
    """A pool, and the errors that it reports."""
    reports: list[str | None] = []
    pool = ThreadPool(threads, "test")
    pool.on_state = lambda error, detail: reports.append(error)
    return pool, reports


async def test_without_threads_work_fails_until_one_starts(no_threads: pytest.MonkeyPatch) -> None:
    pool, reports = reporting_pool(2)
    for _ in range(2):
        with pytest.raises(ComponentFailed, match="cannot start another thread") as raised:
            await pool.run(lambda: "done")
        assert (raised.value.code, raised.value.headers) == ("threads_failed", {})
    assert reports == ["no thread can be started: can't start new thread"] * 2
    no_threads.undo()
    assert await pool.run(lambda: "done") == "done"
    assert reports[2:] == [None]


async def test_one_running_thread_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    pool, reports = reporting_pool(2)
    start, started = threading.Thread.start, []

    def start_one(thread: threading.Thread) -> None:
        if started:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_one)
    assert await pool.run(lambda: "done") == "done"
    assert [error is None for error in reports] == [False]


async def test_an_executor_without_threads_is_reported(no_threads: pytest.MonkeyPatch) -> None:
    pool, reports = reporting_pool(1)
    with ThreadPoolExecutor(1) as executor:
        with pytest.raises(ComponentFailed):
            await pool.run_in_executor(executor, lambda: "done")
        no_threads.undo()
        assert await pool.run_in_executor(executor, lambda: "done") == "done"
    assert [error is None for error in reports] == [False, True]


@pytest.mark.parametrize("error", [SystemExit(3), StopIteration()])
async def test_a_thread_survives_any_exception(error: BaseException) -> None:
    pool = ThreadPool(1, "test")

    def work() -> None:
        raise error

    with pytest.raises(RuntimeError, match=type(error).__name__):
        await pool.run(work)
    assert await pool.run(lambda: "next") == "next"
