"""Voice store: recordings in two directories, one preloaded and read-only, one for uploads.

    preloaded-voices/amy.wav    a recording; its name is the voice's id
    preloaded-voices/amy.txt    its transcript
    voices/bob.wav              an upload, byte for byte as received
    voices/.bob.wav.SHA256.json its sidecar: the transcript of this content of bob.wav

The files are the only state: every call checks them, so any change takes effect immediately in every worker without
communication between workers. Ids are in NFC: every method takes an id in any form of Unicode.

A recording and its transcript are two files, which no file system changes atomically. So the sidecar of an upload has
the hash of its recording in its name. It is written first, takes effect when the recording is renamed into place, and
does not apply to any other content. A crash at any point never pairs a recording with another one's transcript.

A manually added transcript is NAME.txt beside NAME.wav. Recordings that differ only in their extension share it, unless
NAME.wav.txt exists, which applies to NAME.wav only. Uploads change neither: their sidecar overrides a text file that
existed at the upload, and a text file added later overrides the sidecar.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from ..errors import (
    ComponentFailed,
    PreloadedVoice,
    ServiceError,
    Unavailable,
    UnknownVoice,
    Unprocessable,
    VoiceExists,
)
from ..observability.components import Report, report_nothing
from .folder import VoiceFolder
from .joined_recording import JoinedRecording, RecordingFile, join_recordings
from .loader import Voice, VoiceLoader
from .recording_decoder import DecodedRecording, VoiceDecoder
from .transcript import clean_transcript, transcript_names, write_sidecar
from .voice_id import RULES, canonical_id, is_voice_id, same_file, stem_of, suggest_id

__all__ = ["Voice", "VoiceStore"]

_log = logging.getLogger(__name__)


class VoiceStore:
    """Lists, loads and changes voices. Thread-safe; methods block on files and on the decoder process.

    preloaded: read-only directory; uploads: the directory that add, replace and delete change, None for a subclass
        that keeps them elsewhere.
    max_upload_bytes, max_seconds: limits of a recording, encoded and decoded.
    cache_bytes: limit of all cached decoded recordings, LRU.
    report_decoder: called with the result of every decoder start.
    """

    def __init__(
        self,
        preloaded: Path,
        uploads: Path | None,
        *,
        max_upload_bytes: int = 25 << 20,
        max_seconds: float = 30.0,
        cache_bytes: int = 256 << 20,
        report_decoder: Report = report_nothing,
    ) -> None:
        self._preloaded = VoiceFolder(preloaded, preloaded=True)
        self._folders: tuple[VoiceFolder, ...] = (self._preloaded,)
        self._loader = VoiceLoader(max_upload_bytes, max_seconds, cache_bytes, report_decoder)
        if uploads is None:
            return
        self._uploads = VoiceFolder(uploads)
        self._folders = (self._preloaded, self._uploads)
        try:
            uploads.mkdir(parents=True, exist_ok=True)
            for name in self._uploads.remove_stale_files():
                _log.info("removed %s of an interrupted upload", uploads / name)
        except OSError as error:
            _log.warning("voices cannot be uploaded to VOICES_DIR %s: %s", uploads, error.strerror)

    # ---- reading

    def ids(self) -> list[str]:
        """Ids of all voices, sorted; without files that are not audio or have failed to load."""
        found = self._preloaded_ids() | {
            name
            for name in self._uploads.voice_ids()
            if not self._preloaded.stat_file(name) and self._loader.is_voice(self._uploads, name)
        }
        return sorted(found)

    def _preloaded_ids(self) -> set[str]:
        return {name for name in self._preloaded.voice_ids() if self._loader.is_voice(self._preloaded, name)}

    def get(self, voice_id: str) -> Voice:
        """Load a voice from its current files; "amy" finds amy.wav if no other recording has that stem.

        Raises UnknownVoice; what VoiceDecoder.decode raises, for a manually added file; Unprocessable,
        for its transcript; Unavailable, if it cannot be read.
        """
        folder, name = self._find(canonical_id(voice_id))
        return self._loader.load(folder, name)

    def is_preloaded(self, voice_id: str) -> bool:
        """Whether a full id, as `ids` lists it, is of a preloaded voice. Reads no recording."""
        return self._preloaded.stat_file(canonical_id(voice_id)) is not None

    def load_all(self) -> Iterator[tuple[str, Voice | ServiceError]]:
        """Load every voice in turn, with its error if that fails. One decoder makes it faster than `get` for each.

        The decoder is started even if there are no voices, so that a broken one is reported at startup.
        """
        with self._loader.decoder() as decoder:
            with contextlib.suppress(ComponentFailed):  # reported already; every voice that needs it raises again
                decoder.start()
            yield from self._load_each(decoder)

    def _load_each(self, decoder: VoiceDecoder) -> Iterator[tuple[str, Voice | ServiceError]]:
        yield from self._load_files(self.ids(), decoder)

    def _load_files(self, ids: Iterable[str], decoder: VoiceDecoder) -> Iterator[tuple[str, Voice | ServiceError]]:
        for voice_id in ids:
            try:
                folder, name = self._find(voice_id)
                yield voice_id, self._loader.load(folder, name, decoder=decoder)
            except ServiceError as error:
                yield voice_id, error
            except Exception:  # a fault of this program or of a library: the engine and the other voices do without it
                _log.exception("voice %s cannot be prepared", voice_id)
                yield voice_id, ServiceError("it cannot be prepared: the log has the reason")

    def close(self) -> None:
        """End what runs in the background: nothing here, where the files are the only state."""

    # ---- changing

    def add(self, voice_id: str, recording: bytes, transcript: str = "") -> Voice:
        """Store a new voice. Raises VoiceExists, Unprocessable, Unavailable, and what VoiceDecoder.decode raises."""
        voice_id = canonical_id(voice_id)
        self._check_id(voice_id)
        transcript = clean_transcript(transcript)
        self._check_available(voice_id)
        decoded = self.decode(recording)
        sha256 = hashlib.sha256(recording).hexdigest()
        with self._write_lock(recording) as staged:
            self._check_available(voice_id)
            write_sidecar(self._uploads, voice_id, sha256, transcript)
            try:
                self._uploads.put_new(staged, voice_id)
            except OSError as error:
                self._uploads.remove_sidecars(voice_id)
                raise self._exists_error(voice_id) if isinstance(error, FileExistsError) else error from None
            self._uploads.remove_sidecars(voice_id, keep=sha256)
        return self._loader.load(self._uploads, voice_id, decoded=(sha256, decoded))

    def replace(self, voice_id: str, recording: bytes, transcript: str = "") -> Voice:
        """Replace an uploaded voice. Raises UnknownVoice, PreloadedVoice, and what `add` raises."""
        voice_id = canonical_id(voice_id)
        transcript = clean_transcript(transcript)
        self._check_changeable(voice_id)
        decoded = self.decode(recording)
        sha256 = hashlib.sha256(recording).hexdigest()
        with self._write_lock(recording) as staged:
            self._check_changeable(voice_id)
            write_sidecar(self._uploads, voice_id, sha256, transcript)
            self._uploads.put(staged, voice_id)
            self._uploads.remove_sidecars(voice_id, keep=sha256)
        return self._loader.load(self._uploads, voice_id, decoded=(sha256, decoded))

    def delete(self, voice_id: str) -> None:
        """Delete an uploaded voice by its full id. Raises UnknownVoice, PreloadedVoice, Unavailable."""
        voice_id = canonical_id(voice_id)
        with self._write_lock():
            self._check_changeable(voice_id)
            self._uploads.remove(voice_id)
            self._uploads.sync()
            self._uploads.remove_sidecars(voice_id)
            others = {stem_of(name) for name in self._uploads.voice_ids()}
            for name in transcript_names(voice_id):
                if name == f"{voice_id}.txt" or stem_of(voice_id) not in others:
                    self._uploads.remove(name)

    # ---- ids

    def _check_id(self, voice_id: str) -> None:
        if not is_voice_id(voice_id):
            better = suggest_id(voice_id)
            suggestion = f"; for example {better!r}" if better else ""
            raise Unprocessable(
                f"voice_id {voice_id[:140]!r} is invalid: {RULES}{suggestion}",
                code="bad_voice_id",
            )
        if re.fullmatch(r"speaker_[0-9]+", voice_id):
            raise Unprocessable(
                f"voice_id {voice_id!r} is reserved for a built-in speaker: use another", code="bad_voice_id"
            )

    def _find(self, voice_id: str) -> tuple[VoiceFolder, str]:
        """Directory and file name of a voice: full ids before stems, preloaded before uploads. Raises UnknownVoice."""
        if is_voice_id(voice_id):
            for folder in self._folders:
                if folder.stat_file(voice_id):
                    return folder, voice_id
            for folder in self._folders:
                matches = [
                    name
                    for name in folder.voice_ids()
                    if stem_of(name) == voice_id and self._loader.is_voice(folder, name)
                ]
                if len(matches) == 1:
                    return folder, matches[0]
                if matches:
                    raise ambiguous(voice_id, matches)
        raise unknown(voice_id)

    def _exists_error(self, voice_id: str) -> VoiceExists:
        return VoiceExists(
            f"voice '{voice_id}' exists: PUT /voices/{quote(voice_id)} replaces it, or use another voice_id"
        )

    def _check_available(self, voice_id: str) -> None:
        """Raises VoiceExists. Ids are compared without case: the directory may move to a case-insensitive disk."""
        wanted = same_file(voice_id)
        preloaded = {same_file(name) for name in self._preloaded.voice_ids()}
        if wanted in preloaded or wanted in {stem_of(name) for name in preloaded}:
            raise VoiceExists(f"voice '{voice_id}' is preloaded and cannot be replaced: use another voice_id")
        for name in self._upload_names():
            if same_file(name) == wanted:
                raise self._exists_error(canonical_id(name))

    def _upload_names(self) -> list[str]:
        """The names of all uploads, and of whatever else is beside them."""
        return self._uploads.list_names()

    def _is_upload(self, voice_id: str) -> bool:
        return self._uploads.stat_file(voice_id) is not None

    def _check_changeable(self, voice_id: str) -> None:
        if is_voice_id(voice_id):
            if self._preloaded.stat_file(voice_id):
                raise PreloadedVoice(f"voice '{voice_id}' is preloaded: it can be neither replaced nor deleted")
            if self._is_upload(voice_id):
                return
        raise unknown(voice_id)

    # ---- files

    @contextlib.contextmanager
    def _write_lock(self, recording: bytes | None = None) -> Iterator[str]:
        """Stage the recording, then hold the upload directory's lock across all workers.

        Raises Unavailable on an OSError.
        """
        try:
            with contextlib.ExitStack() as stack:
                staged = "" if recording is None else stack.enter_context(self._uploads.staged(recording))
                stack.enter_context(self._uploads.locked())
                yield staged
        except OSError as error:
            raise Unavailable(
                f"VOICES_DIR is not writable: {error.strerror}; free space or grant the service write access, then"
                " try again",
                code="storage_failed",
            ) from error

    def decode(self, recording: bytes) -> DecodedRecording:
        """Decode a client's recording in a new process, which is not shared with others.

        Raises Busy, and what VoiceDecoder.decode raises.
        """
        with self._loader.decoder() as decoder:
            return decoder.decode(recording)

    def join(self, files: Sequence[RecordingFile], transcripts: Sequence[str]) -> JoinedRecording:
        """One recording of several, for `add`. Raises Busy, and what `join_recordings` raises."""
        with self._loader.decoder() as decoder:
            return join_recordings(files, transcripts, decoder.decode, self._loader.max_seconds)


def unknown(voice_id: str) -> UnknownVoice:
    return UnknownVoice(f"voice {voice_id[:140]!r} is unknown: GET /voices lists all voices")


def ambiguous(voice_id: str, matches: list[str]) -> UnknownVoice:
    return UnknownVoice(f"voice '{voice_id}' is ambiguous: use one of {', '.join(matches)}")
