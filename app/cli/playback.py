"""What a loudspeaker is to play: a buffer of speech that knows how much of each answer was heard."""

from __future__ import annotations

import threading
from collections import deque

from engine import SAMPLE_RATE

BYTES_PER_SECOND = 2 * SAMPLE_RATE


class Playback:
    """16-bit mono PCM at 24 kHz. Thread-safe: the device takes what another thread adds."""

    def __init__(self) -> None:
        self._pieces: deque[tuple[str, bytes]] = deque()  # (id of the answer's item, samples not played yet)
        self._played: dict[str, int] = {}  # item -> bytes of it that were played
        self._changed = threading.Condition()

    def add(self, item_id: str, pcm: bytes) -> None:
        with self._changed:
            self._pieces.append((item_id, pcm))

    def take(self, size: int) -> bytes:
        """The next bytes to play, filled up with silence."""
        taken = bytearray()
        with self._changed:
            while self._pieces and len(taken) < size:
                item_id, pcm = self._pieces.popleft()
                part, rest = pcm[: size - len(taken)], pcm[size - len(taken) :]
                if rest:
                    self._pieces.appendleft((item_id, rest))
                self._played[item_id] = self._played.get(item_id, 0) + len(part)
                taken += part
            if not self._pieces:
                self._changed.notify_all()
        return bytes(taken).ljust(size, b"\0")

    def stop(self) -> dict[str, int]:
        """Drop what was not played. Returns for each answer that it belonged to how many milliseconds were."""
        with self._changed:
            cut = dict.fromkeys(item_id for item_id, _ in self._pieces)
            self._pieces.clear()
            self._changed.notify_all()
            return {item_id: self._played.get(item_id, 0) * 1000 // BYTES_PER_SECOND for item_id in cut}

    def wait(self) -> None:
        """Wait until everything was played."""
        with self._changed:
            self._changed.wait_for(lambda: not self._pieces)
