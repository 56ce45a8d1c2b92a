"""Loads voices from files, with a cache: read again when the file has changed, decoded when its content has."""

from __future__ import annotations

import hashlib
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from engine import CodesStore, VoicePrompt

from ..errors import ServiceError, Unavailable, UnknownVoice
from ..observability.components import Report, report_nothing
from .decoder_starts import DecoderStartPolicy
from .folder import FileStat, VoiceFolder
from .preparation import NO_TRANSCRIPT, PreparedRecording, prepare
from .recording_decoder import DecodedRecording, VoiceDecoder
from .recording_format import sniff
from .transcript import find_transcript, transcript_names

_ATTEMPTS = 10  # to read a voice that is being replaced concurrently
_STABLE_NS = 2 * 10**9  # above every file system's timestamp resolution: an older file's stat identifies its content
_MAX_SNIFFED = 10_000


@dataclass(frozen=True, eq=False)
class Voice:
    """A recording prepared for the engine.

    prompt: float32 mono samples at 24 kHz, trimmed and at the loudness of every voice, and the transcript.
    seconds: of the whole recording.
    warnings: quality problems of the recording, each a sentence.
    created: when the recording was last written, ISO 8601 in UTC.
    sha256: of the recording's bytes.
    """

    voice_id: str
    prompt: VoicePrompt
    seconds: float
    has_transcript: bool
    preloaded: bool
    created: str
    sha256: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class SharedRecording:
    """A recording that is not a file here. Equal sha256 and transcript mean an equal voice.

    created: ISO 8601 in UTC. read: returns its bytes, which have that sha256; what it raises, `load_shared` raises.
    """

    voice_id: str
    sha256: str
    transcript: str
    created: str
    read: Callable[[], bytes]
    codes_store: CodesStore


class _VoiceStats(NamedTuple):
    """Stats of a voice's recording and of the files that its transcript may come from."""

    recording: FileStat | None
    transcripts: tuple[FileStat | None, ...]


@dataclass(frozen=True, eq=False)
class _Entry:
    stats: _VoiceStats | None  # None: of a SharedRecording
    stable: bool  # equal stats mean equal contents
    sha256: str
    audio: PreparedRecording | ServiceError
    transcript: str | ServiceError
    voice: Voice | None  # None where one of the two is an error

    @property
    def size(self) -> int:
        return 1024 if isinstance(self.audio, ServiceError) else 1024 + self.audio.samples.nbytes

    def result(self) -> Voice:
        for part in (self.audio, self.transcript):
            if isinstance(part, ServiceError):
                raise type(part)(part.detail, code=part.code)  # a copy: a raised exception collects tracebacks
        assert self.voice is not None
        return self.voice


_Key = tuple[bool, str]  # (preloaded, file name)


class VoiceLoader:
    """Loads and caches voices. Thread-safe.

    max_bytes, max_seconds: limits of one recording; cache_bytes: limit of all cached recordings, LRU.
    report_decoder: called with the result of every decoder start.
    """

    def __init__(
        self, max_bytes: int, max_seconds: float, cache_bytes: int, report_decoder: Report = report_nothing
    ) -> None:
        self._starts = DecoderStartPolicy(report_decoder)
        self._max_bytes = max_bytes
        self.max_seconds = max_seconds
        self._cache_bytes = cache_bytes
        self._cache: OrderedDict[_Key, _Entry] = OrderedDict()
        self._cached_bytes = 0
        self._sniffed: dict[_Key, tuple[FileStat, bool]] = {}
        self._lock = threading.Lock()  # guards the three above; never held during I/O
        self._loading: weakref.WeakValueDictionary[_Key, threading.Lock] = weakref.WeakValueDictionary()

    def decoder(self) -> VoiceDecoder:
        return VoiceDecoder(self._max_bytes, self.max_seconds, self._starts)

    def is_voice(self, folder: VoiceFolder, name: str) -> bool:
        """Whether the file has an audio signature and has not failed to load."""
        key = (folder.preloaded, name)
        stat = folder.stat_file(name)
        if stat is None:
            return False
        with self._lock:
            entry, sniffed = self._cache.get(key), self._sniffed.get(key)
        if entry and entry.voice is None and entry.stats == _stat_voice(folder, name, entry.sha256):
            return False
        if sniffed is None or sniffed[0] != stat or not _is_stable(stat, time.time_ns()):
            try:
                found = folder.read(name, 64)
            except OSError:
                return False
            if found is None:
                return False
            sniffed = (found[0], sniff(found[1]) is not None)
            with self._lock:
                if len(self._sniffed) >= _MAX_SNIFFED:  # drops entries of deleted files; others are sniffed again
                    self._sniffed.clear()
                self._sniffed[key] = sniffed
        return sniffed[1]

    def load(
        self,
        folder: VoiceFolder,
        name: str,
        *,
        decoder: VoiceDecoder | None = None,
        decoded: tuple[str, DecodedRecording] | None = None,
    ) -> Voice:
        """Load the voice from its current files.

        decoder: a running one to use. decoded: (sha256 of a recording, its samples), used if the content matches.
        Raises UnknownVoice, Unavailable, Unprocessable for a transcript, and what VoiceDecoder.decode raises.
        """
        key = (folder.preloaded, name)
        if entry := self._cached(key, folder):
            return entry.result()
        with self._lock:
            loading = self._loading.setdefault(key, threading.Lock())
        with loading:  # one thread decodes; others that load the same voice wait for it
            if entry := self._cached(key, folder):
                return entry.result()
            try:
                entry = self._read(key, folder, decoder, decoded)
            except OSError as error:
                raise Unavailable(f"voice '{name}' cannot be read: {error.strerror}", code="storage_failed") from error
            self._store(key, entry)
            return entry.result()

    def load_shared(
        self,
        shared: SharedRecording,
        *,
        decoder: VoiceDecoder | None = None,
        decoded: DecodedRecording | None = None,
    ) -> Voice:
        """Load the voice of a shared recording: read and decoded unless its content is cached.

        decoded: its samples, if they are known. Raises what VoiceDecoder.decode raises.
        """
        key = (False, shared.voice_id)
        with self._lock:
            loading = self._loading.setdefault(key, threading.Lock())
        with loading:
            with self._lock:
                entry = self._cache.get(key)
                if entry is not None:
                    self._cache.move_to_end(key)
            audio: PreparedRecording | ServiceError
            if entry is not None and entry.sha256 == shared.sha256:
                voice = entry.voice
                if voice is None or (entry.transcript, voice.created) == (shared.transcript, shared.created):
                    return entry.result()
                audio = entry.audio
            elif decoded is not None:
                audio = prepare(decoded)
            else:
                audio = self._decode(shared.voice_id, shared.read(), decoder)
            voice = None
            if not isinstance(audio, ServiceError):
                prompt = VoicePrompt(audio.samples, shared.transcript, codes_store=shared.codes_store)
                voice = _voice(shared.voice_id, audio, prompt, False, shared.created, shared.sha256)
            entry = _Entry(None, True, shared.sha256, audio, shared.transcript, voice)
            self._store(key, entry)
            return entry.result()

    def _cached(self, key: _Key, folder: VoiceFolder) -> _Entry | None:
        with self._lock:
            entry = self._cache.get(key)
            if entry is None:
                return None
            self._cache.move_to_end(key)
        return entry if entry.stable and entry.stats == _stat_voice(folder, key[1], entry.sha256) else None

    def _read(
        self, key: _Key, folder: VoiceFolder, decoder: VoiceDecoder | None, decoded: tuple[str, DecodedRecording] | None
    ) -> _Entry:
        name = key[1]
        started = time.time_ns()
        for _ in range(_ATTEMPTS):
            found = folder.read(name, self._max_bytes + 1)
            if found is None:
                raise UnknownVoice(f"voice '{name}' no longer exists: GET /voices lists all voices")
            stat, recording = found
            sha256 = hashlib.sha256(recording).hexdigest()
            stats = _stat_voice(folder, name, sha256)
            transcript = _transcript(folder, name, sha256)
            if stats.recording == stat and _stat_voice(folder, name, sha256) == stats:
                break  # nothing changed during the read: recording and transcript belong together
        else:
            raise Unavailable(f"voice '{name}' is changing continuously: try again", retry_after=1)
        stable = all(_is_stable(each, started) for each in (stat, *stats.transcripts) if each)
        with self._lock:
            previous = self._cache.get(key)
        if previous and previous.sha256 == sha256:
            audio = previous.audio
        elif decoded and decoded[0] == sha256:
            audio = prepare(decoded[1])
        else:
            audio = self._decode(name, recording, decoder)
        voice = None
        if not isinstance(audio, ServiceError) and not isinstance(transcript, ServiceError):
            if previous and previous.voice and (previous.audio is audio and previous.transcript == transcript):
                prompt = previous.voice.prompt  # its key is computed already
            else:
                prompt = VoicePrompt(audio.samples, transcript)
            created = datetime.fromtimestamp(stat.mtime_ns / 1e9, UTC).isoformat(timespec="seconds")
            voice = _voice(name, audio, prompt, folder.preloaded, created, sha256)
        return _Entry(stats, stable, sha256, audio, transcript, voice)

    def _decode(self, name: str, recording: bytes, decoder: VoiceDecoder | None) -> PreparedRecording | ServiceError:
        try:
            if decoder:
                return prepare(decoder.decode(recording))
            with self.decoder() as new:
                return prepare(new.decode(recording))
        except ServiceError as error:
            if error.status >= 429:
                raise  # not caused by the file, so not cached
            return _with_voice_name(name, error)

    def _store(self, key: _Key, entry: _Entry) -> None:
        with self._lock:
            if old := self._cache.pop(key, None):
                self._cached_bytes -= old.size
            self._cache[key] = entry
            self._cached_bytes += entry.size
            while self._cached_bytes > self._cache_bytes and len(self._cache) > 1:
                _, oldest = self._cache.popitem(last=False)
                self._cached_bytes -= oldest.size


def _voice(
    name: str, audio: PreparedRecording, prompt: VoicePrompt, preloaded: bool, created: str, sha256: str
) -> Voice:
    has_transcript = bool(prompt.transcript)
    warnings = audio.warnings if has_transcript else (*audio.warnings, NO_TRANSCRIPT)
    return Voice(name, prompt, audio.seconds, has_transcript, preloaded, created, sha256, warnings)


def _transcript(folder: VoiceFolder, name: str, sha256: str) -> str | ServiceError:
    try:
        return find_transcript(folder, name, sha256)
    except ServiceError as error:
        return _with_voice_name(name, error)


def _with_voice_name(name: str, error: ServiceError) -> ServiceError:
    return type(error)(f"voice '{name}' cannot be used: {error.detail}", code=error.code)


def _stat_voice(folder: VoiceFolder, name: str, sha256: str) -> _VoiceStats:
    names = (*transcript_names(name), folder.sidecar_name(name, sha256))
    return _VoiceStats(folder.stat_file(name), tuple(folder.stat_file(each) for each in names))


def _is_stable(stat: FileStat, at_ns: int) -> bool:
    return stat.ctime_ns < at_ns - _STABLE_NS
