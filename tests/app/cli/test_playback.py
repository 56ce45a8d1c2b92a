from __future__ import annotations

import threading

from app.cli.playback import Playback


def test_answers_are_played_in_order_and_silence_after_them() -> None:
    playback = Playback()
    playback.add("a", b"1234")
    playback.add("b", b"56")
    assert playback.take(3) == b"123"
    assert playback.take(5) == b"456\0\0"
    assert playback.take(2) == b"\0\0"


def test_what_was_heard_is_known_when_it_is_stopped() -> None:
    playback = Playback()
    for item_id in ("a", "b", "c"):
        playback.add(item_id, bytes(48_000))
    playback.take(48_000)
    playback.take(24_000)
    assert playback.stop() == {"b": 500, "c": 0}
    assert playback.take(2) == b"\0\0"
    assert playback.stop() == {}


def test_waiting_ends_when_the_last_sample_was_taken() -> None:
    playback = Playback()
    playback.add("a", bytes(4))
    waiting = threading.Thread(target=playback.wait)
    waiting.start()
    playback.take(2)
    assert waiting.is_alive()
    playback.take(2)
    waiting.join(10)
    assert not waiting.is_alive()
