"""What is known of voices: their codes, and the keys and values of their prompt segments. Bounded in bytes."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, cast

from .types import Codes


@dataclass(frozen=True)
class VoiceKey:
    """A voice prompt as it stands in a context."""

    content: str  # VoicePrompt.key
    speaker: int
    with_text: bool  # False: without its transcript, for the unconditional row of guidance


@dataclass(frozen=True)
class CachedVoice:
    """length: positions of the segment, its closing frame included. saved: KvCache.copy_out of them."""

    length: int
    saved: Any

    @property
    def nbytes(self) -> int:
        return int(self.saved.nbytes)


class VoiceCache:
    """Least recently used go first. What is larger than the whole bound is not kept."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._kept: OrderedDict[VoiceKey | str, CachedVoice | Codes] = OrderedDict()
        self.nbytes = 0

    def __contains__(self, key: object) -> bool:
        return key in self._kept

    def get(self, key: VoiceKey) -> CachedVoice | None:
        return cast("CachedVoice | None", self._used(key))

    def put(self, key: VoiceKey, voice: CachedVoice) -> None:
        self._keep(key, voice)

    def codes(self, content: str) -> Codes | None:
        """Of the recording with this VoicePrompt.key, whoever speaks like it: (frames, codebooks)."""
        return cast("Codes | None", self._used(content))

    def put_codes(self, content: str, codes: Codes) -> None:
        self._keep(content, codes)

    def _used(self, key: VoiceKey | str) -> CachedVoice | Codes | None:
        kept = self._kept.get(key)
        if kept is not None:
            self._kept.move_to_end(key)
        return kept

    def _keep(self, key: VoiceKey | str, what: CachedVoice | Codes) -> None:
        if (old := self._kept.pop(key, None)) is not None:
            self.nbytes -= old.nbytes
        self._kept[key] = what
        self.nbytes += what.nbytes
        while self.nbytes > self._most_bytes:
            _, oldest = self._kept.popitem(last=False)
            self.nbytes -= oldest.nbytes
