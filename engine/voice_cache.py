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


@dataclass(frozen=True)
class CachedVoice:
    """length: positions of the segment, its EOS frame included. kv: their keys and values, see ModelRunner.copy_kv."""

    length: int
    kv: Any

    @property
    def nbytes(self) -> int:
        return int(self.kv.nbytes)


class VoiceCache:
    """Evicts the least recently used entries. An entry larger than `max_bytes` is not cached."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[VoiceKey | str, CachedVoice | Codes] = OrderedDict()
        self.nbytes = 0

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def get(self, key: VoiceKey) -> CachedVoice | None:
        return cast("CachedVoice | None", self._get(key))

    def put(self, key: VoiceKey, voice: CachedVoice) -> None:
        self._put(key, voice)

    def codes(self, content: str) -> Codes | None:
        """The codes (frames, codebooks) of the recording with this VoicePrompt.key, for any speaker id."""
        return cast("Codes | None", self._get(content))

    def put_codes(self, content: str, codes: Codes) -> None:
        self._put(content, codes)

    def _get(self, key: VoiceKey | str) -> CachedVoice | Codes | None:
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
        return entry

    def _put(self, key: VoiceKey | str, entry: CachedVoice | Codes) -> None:
        if (old := self._entries.pop(key, None)) is not None:
            self.nbytes -= old.nbytes
        self._entries[key] = entry
        self.nbytes += entry.nbytes
        while self.nbytes > self._max_bytes:
            _, oldest = self._entries.popitem(last=False)
            self.nbytes -= oldest.nbytes
