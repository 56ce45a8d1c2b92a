"""The voices that a replica spoke last: their prompts are most likely in its cache."""

from __future__ import annotations

from app.observability.request_log import RequestRecord

MAX_VOICES = 256


class RecentVoices:
    """An observer of the request log: least recently used ids are forgotten. Use it on one event loop."""

    def __init__(self, limit: int = MAX_VOICES) -> None:
        self._limit = limit
        self._ids: dict[str, None] = {}  # in the order of their last use

    def admitted(self, record: RequestRecord) -> None:
        pass  # the voice is not looked up yet

    def ended(self, record: RequestRecord) -> None:
        if record.voice is None or not record.admitted:
            return
        self._ids.pop(record.voice, None)
        self._ids[record.voice] = None
        if len(self._ids) > self._limit:
            del self._ids[next(iter(self._ids))]

    def ids(self) -> list[str]:
        return list(self._ids)
