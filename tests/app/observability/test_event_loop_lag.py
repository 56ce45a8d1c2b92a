from __future__ import annotations

import asyncio
import threading
import time

import pytest

from app.observability import event_loop_lag
from app.observability.event_loop_lag import CPU, LOOP_LAG, EventLoopMonitor, part_of
from app.observability.metrics import new_counters

pytestmark = pytest.mark.anyio


def burn(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def test_each_thread_is_counted_under_its_label() -> None:
    counters = new_counters(2)
    monitor = EventLoopMonitor(counters, 1)
    monitor.count(threading.get_native_id())
    before = counters.sums(CPU)
    counted, go_on = threading.Event(), threading.Event()

    def work() -> None:
        burn(0.05)
        counted.set()
        go_on.wait(60)

    thread = threading.Thread(target=work, name="fake-engine")
    thread.start()
    counted.wait(60)
    burn(0.02)
    monitor.count(threading.get_native_id())
    go_on.set()
    thread.join(60)
    used = dict(
        zip(CPU.labels["part"], [now - then for now, then in zip(counters.sums(CPU), before, strict=True)], strict=True)
    )
    assert used["engine"] >= 0.05
    assert used["event_loop"] >= 0.02
    assert counters.of_row(0, CPU) == [0.0] * CPU.cells


def test_a_count_adds_only_new_cpu_time() -> None:
    counters = new_counters(1)
    monitor = EventLoopMonitor(counters)
    monitor.count(threading.get_native_id())
    once = sum(counters.sums(CPU))
    monitor.count(threading.get_native_id())
    assert sum(counters.sums(CPU)) - once < once


@pytest.mark.parametrize(
    ("thread", "part"),
    [("encode_3", "encoding"), ("csm-engine", "engine"), ("espeak-ng", "engine"), ("watchdog", "other")],
)
def test_threads_are_labelled_by_their_names(thread: str, part: str) -> None:
    assert part_of(thread) == part


async def test_a_blocked_event_loop_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_loop_lag, "INTERVAL_SECONDS", 0.001)
    counters = new_counters(1)
    monitor = EventLoopMonitor(counters)
    monitor.start()
    await asyncio.sleep(0.01)
    time.sleep(0.25)  # blocks the event loop
    while not sum(counters.of_row(0, LOOP_LAG)[LOOP_LAG.cell(0.2001) : -1]):
        await asyncio.sleep(0)
    await monitor.close()
