"""What is known of voices: their codes and the keys and values of their prompt segments. Bounded in bytes."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from .types import Codes


@dataclass(frozen=True)
class VoiceKey:
    """A voice prompt as it stands in a context."""

    content: str  # VoicePrompt.key
    speaker: int
    spoken: bool  # False: without its transcript, for the unconditional row of guidance


@dataclass(frozen=True)
class CachedVoice:
    """tokens: of the transcript. codes: (frames, codebooks). saved: KvCache.copy_out of the segment, once made."""

    tokens: list[int]
    codes: Codes
    saved: Any = None

    @property
    def length(self) -> int:
        """Positions of the segment, its closing frame included."""
        return len(self.tokens) + len(self.codes) + 1

    @property
    def nbytes(self) -> int:
        return int(self.saved.nbytes + self.codes.nbytes)


class VoiceCache:
    """Least recently used go first. One that is larger than the whole bound is not kept."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._voices: OrderedDict[VoiceKey, CachedVoice] = OrderedDict()
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._voices)

    def get(self, key: VoiceKey) -> CachedVoice | None:
        voice = self._voices.get(key)
        if voice is not None:
            self._voices.move_to_end(key)
        return voice

    def put(self, key: VoiceKey, voice: CachedVoice) -> None:
        if (old := self._voices.pop(key, None)) is not None:
            self.nbytes -= old.nbytes
        self._voices[key] = voice
        self.nbytes += voice.nbytes
        while self.nbytes > self._most_bytes:
            _, oldest = self._voices.popitem(last=False)
            self.nbytes -= oldest.nbytes
