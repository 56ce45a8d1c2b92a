"""Recordings that come with a request: decoded as uploads are, and cached by content in memory."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from engine import VoicePrompt

from ..errors import TooLarge, UndecodableAudio
from .preparation import prepare
from .recording_decoder import MEBIBYTE, DecodedRecording
from .transcript import clean_transcript

CACHE_BYTES = 64 << 20  # of samples: 20 voices of 30 s
_DATA_URI = re.compile(r"data:[^,]{0,200},", re.IGNORECASE)
_URL_SAFE = str.maketrans("-_", "+/")


class Reference(NamedTuple):
    """A recording as it was sent, its transcript, and a hash of both."""

    recording: bytes
    transcript: str
    key: str


class ReferenceVoices:
    """The voices of recordings that came with requests. Thread-safe; nothing is written to disk.

    decode: decodes one recording in the sandbox; what it raises, `load` raises.
    max_bytes: limit of one recording, encoded. cache_bytes: limit of the samples of all voices, LRU.
    """

    def __init__(
        self, decode: Callable[[bytes], DecodedRecording], max_bytes: int, cache_bytes: int = CACHE_BYTES
    ) -> None:
        self._decode = decode
        self._max_bytes = max_bytes
        self._cache_bytes = cache_bytes
        self._cache: OrderedDict[str, VoicePrompt] = OrderedDict()
        self._cached_bytes = 0
        self._lock = threading.Lock()  # guards the two above
        self._loading: weakref.WeakValueDictionary[str, threading.Lock] = weakref.WeakValueDictionary()

    def read(self, audio: str, transcript: str) -> Reference:
        """Read a recording from base64 or a data URI. Takes 0.1 s for the longest: call it in a thread.

        Raises UndecodableAudio, TooLarge, and Unprocessable for the transcript.
        """
        return self.identify(self._from_base64(audio), transcript)

    def identify(self, recording: bytes, transcript: str) -> Reference:
        """The same for a recording's bytes. Raises Unprocessable for the transcript."""
        transcript = clean_transcript(transcript)
        digest = hashlib.sha256(recording)
        digest.update(f"\0{transcript}".encode())
        return Reference(recording, transcript, digest.hexdigest())

    def cached(self, reference: Reference) -> VoicePrompt | None:
        """The voice, if it is known."""
        with self._lock:
            prompt = self._cache.get(reference.key)
            if prompt is not None:
                self._cache.move_to_end(reference.key)
            return prompt

    def load(self, reference: Reference) -> VoicePrompt:
        """The voice, decoded and prepared unless it is known. Blocks on the decoder; raises what `decode` raises."""
        with self._lock:
            loading = self._loading.setdefault(reference.key, threading.Lock())
        with loading:  # one thread decodes; others with the same recording wait for it
            prompt = self.cached(reference)
            if prompt is None:
                prompt = VoicePrompt(prepare(self._decode(reference.recording)).samples, reference.transcript)
                self._store(reference.key, prompt)
            return prompt

    def _store(self, key: str, prompt: VoicePrompt) -> None:
        with self._lock:
            self._cache[key] = prompt
            self._cached_bytes += prompt.samples.nbytes
            while self._cached_bytes > self._cache_bytes and len(self._cache) > 1:
                _, oldest = self._cache.popitem(last=False)
                self._cached_bytes -= oldest.samples.nbytes

    def _from_base64(self, audio: str) -> bytes:
        """Both alphabets, with or without padding and line breaks."""
        start = 0
        if head := _DATA_URI.match(audio):
            start = head.end()
            if not head[0][:-1].lower().endswith(";base64"):
                raise UndecodableAudio("the data URI of the recording is not base64: send data:audio/wav;base64,…")
        encoded = "".join(audio[start:].split()).rstrip("=").translate(_URL_SAFE)
        size = len(encoded) * 3 // 4
        if size > self._max_bytes:
            limit = f"{self._max_bytes / MEBIBYTE:g} MB"
            raise TooLarge(f"the recording has {size / MEBIBYTE:.1f} MB; MAX_UPLOAD_MB is {limit}")
        try:
            return base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
        except (binascii.Error, ValueError) as error:
            raise UndecodableAudio(
                f"the recording is not base64 ({error}): send the file itself, as base64 or a data URI"
            ) from None
