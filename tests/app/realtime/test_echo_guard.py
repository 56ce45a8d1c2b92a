"""The guard is told by the event loop what is played, and asked by the thread that hears the microphone."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from app.realtime.echo_guard import EchoGuard

WINDOW = np.random.default_rng(0).standard_normal(512).astype(np.float32)
TURNS = 300


@pytest.fixture
def eager_threads() -> Iterator[None]:
    """Threads take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def test_a_guard_that_has_played_nothing_hears_no_echo() -> None:
    guard = EchoGuard()
    guard.listen(WINDOW)
    guard.played(np.zeros(0, np.float32))
    assert not guard.is_echo()


@pytest.mark.usefixtures("eager_threads")
def test_audio_may_be_sent_while_the_microphone_is_heard() -> None:
    guard = EchoGuard()
    failures: list[BaseException] = []

    def play() -> None:
        try:
            for turn in range(TURNS):
                guard.played(np.tile(WINDOW, 4))
                if turn % 8 == 7:
                    guard.stopped()
        except BaseException as failure:
            failures.append(failure)

    player = threading.Thread(target=play)
    player.start()
    while player.is_alive():
        guard.listen(WINDOW)
        guard.is_echo()
    player.join(timeout=10)
    assert failures == []
