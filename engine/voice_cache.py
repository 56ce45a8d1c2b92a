"""LRU cache of voices: their codes, and the keys and values of their prompt segments. Bounded in bytes."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, cast

from .types import Codes


@dataclass(frozen=True)
class VoiceKey:
    """Identifies a voice segment as it is written into a context."""

    content: str  # VoicePrompt.key
    speaker: int
    with_text: bool  # False: without its transcript, for the unconditional row under guidance


VoiceKeys = tuple[VoiceKey, ...]  # the segments that a context begins with: a dialogue has several


@dataclass(frozen=True)
class CachedVoices:
    """Segments at the start of a context.

    length: positions of the segments, their EOS frames included. kv: their keys and values, see ModelRunner.copy_kv.
    """

    length: int
    kv: Any

    @property
    def nbytes(self) -> int:
        return int(self.kv.nbytes)


class VoiceCache:
    """Evicts the least recently used entries. An entry larger than `max_bytes` is not cached."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[VoiceKeys | str, CachedVoices | Codes] = OrderedDict()
        self.nbytes = 0

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def get(self, keys: VoiceKeys) -> CachedVoices | None:
        return cast("CachedVoices | None", self._get(keys))

    def longest_prefix(self, keys: VoiceKeys) -> tuple[int, CachedVoices | None]:
        """How many of the segments, from the first on, have their keys and values here, and those."""
        for count in range(len(keys), 0, -1):
            if (cached := self.get(keys[:count])) is not None:
                return count, cached
        return 0, None

    def put(self, keys: VoiceKeys, voices: CachedVoices) -> None:
        self._put(keys, voices)

    def codes(self, content: str) -> Codes | None:
        """The codes (frames, codebooks) of the recording with this VoicePrompt.key, for any speaker id."""
        return cast("Codes | None", self._get(content))

    def put_codes(self, content: str, codes: Codes) -> None:
        self._put(content, codes)

    def _get(self, key: VoiceKeys | str) -> CachedVoices | Codes | None:
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
        return entry

    def _put(self, key: VoiceKeys | str, entry: CachedVoices | Codes) -> None:
        if (old := self._entries.pop(key, None)) is not None:
            self.nbytes -= old.nbytes
        self._entries[key] = entry
        self.nbytes += entry.nbytes
        while self.nbytes > self._max_bytes:
            _, oldest = self._entries.popitem(last=False)
            self.nbytes -= oldest.nbytes
