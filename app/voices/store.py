"""The voices that can be spoken with: recordings in two folders, one shipped and one for uploads.

    preloaded-voices/amy.wav    a recording; its name is the voice's id
    preloaded-voices/amy.txt    its transcript
    voices/bob.wav              an upload, byte for byte as it came
    voices/.bob.wav.SHA256.json a note: the transcript that belongs to this very content of bob.wav

Files are the truth: what a recording is now is looked at on every call, so a change counts at once in
every worker, whoever makes it, and workers have nothing to tell each other.

A recording and its transcript are two files, and no file system changes two at once. So the note of an
upload carries the hash of its recording in its name. It is written first; the moment the recording gets
its name, note and recording are both in force; with any other content the note says nothing. Whatever
is killed in between, no recording is ever found with the words of another.

A transcript put down by hand is NAME.txt beside NAME.wav. Recordings that differ in their suffix only
share it, unless NAME.wav.txt is there, which is for NAME.wav alone. Uploads touch neither: their note
overrides what lay beside them when they came, and is overridden by what is put there later.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
from collections.abc import Iterator
from pathlib import Path

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
from .folder import VoiceFolder, is_voice_id, stem_of
from .loader import Voice, VoiceLoader
from .recording_decoder import Samples
from .transcript import clean_transcript, transcript_names, write_sidecar

__all__ = ["Voice", "VoiceStore"]

_log = logging.getLogger(__name__)


class VoiceStore:
    """Every method may be called from any thread, and blocks: files are read, and processes waited for.

    preloaded: a folder that is only ever read; uploads: the one that add, replace and delete change.
    max_upload_bytes, max_seconds: what a recording may measure, packed and unpacked.
    cache_bytes: bound on the decoded recordings that are kept; least recently used go first.
    report_decoder: told of every start of a decoder whether it worked.
    """

    def __init__(
        self,
        preloaded: Path,
        uploads: Path,
        *,
        max_upload_bytes: int = 25 << 20,
        max_seconds: float = 30.0,
        cache_bytes: int = 256 << 20,
        report_decoder: Report = report_nothing,
    ) -> None:
        self._preloaded = VoiceFolder(preloaded, preloaded=True)
        self._uploads = VoiceFolder(uploads)
        self._loader = VoiceLoader(max_upload_bytes, max_seconds, cache_bytes, report_decoder)
        try:
            uploads.mkdir(parents=True, exist_ok=True)
            for name in self._uploads.remove_stale_files():
                _log.info("removed %s, left behind by an upload that never finished", uploads / name)
        except OSError as error:
            _log.warning("voices cannot be uploaded to VOICES_DIR %s: %s", uploads, error.strerror)

    # ---- reading

    def ids(self) -> list[str]:
        """The ids of all voices, sorted; without files that are not audio or are known to be of no use."""
        found = {name for name in self._preloaded.voice_ids() if self._loader.is_voice(self._preloaded, name)}
        found |= {
            name
            for name in self._uploads.voice_ids()
            if not self._preloaded.stat_file(name) and self._loader.is_voice(self._uploads, name)
        }
        return sorted(found)

    def get(self, voice_id: str) -> Voice:
        """The voice as its files are now; "amy" finds amy.wav where there is no other amy to mean.

        Raises UnknownVoice; what VoiceDecoder.decode raises, for a file put down by hand; Unprocessable,
        for its transcript; Unavailable, where it cannot be read.
        """
        folder, name = self._find(voice_id)
        return self._loader.load(folder, name)

    def load_all(self) -> Iterator[tuple[str, Voice | ServiceError]]:
        """Every voice, or why it is none, one after the other: much quicker than `get` for each when they are new.

        A decoder is started even where there is no voice, so that a broken one is known from the start on.
        """
        with self._loader.decoder() as decoder:
            with contextlib.suppress(ComponentFailed):  # it was reported, and every voice that needs one says so again
                decoder.start()
            for voice_id in self.ids():
                try:
                    folder, name = self._find(voice_id)
                    yield voice_id, self._loader.load(folder, name, decoder=decoder)
                except ServiceError as error:
                    yield voice_id, error

    # ---- changing

    def add(self, voice_id: str, recording: bytes, transcript: str = "") -> Voice:
        """Keep a new voice. Raises VoiceExists, Unprocessable, Unavailable, and what VoiceDecoder.decode raises."""
        self._check_id(voice_id)
        transcript = clean_transcript(transcript)
        self._check_available(voice_id)
        samples = self._decode(recording)
        sha256 = hashlib.sha256(recording).hexdigest()
        with self._write_lock(recording) as staged:
            self._check_available(voice_id)
            write_sidecar(self._uploads, voice_id, sha256, transcript)
            try:
                self._uploads.put_new(staged, voice_id)
            except OSError as error:
                self._uploads.remove_sidecars(voice_id)
                raise self._exists_error(voice_id) if isinstance(error, FileExistsError) else error from None
            self._uploads.remove_sidecars(voice_id, but=sha256)
        return self._loader.load(self._uploads, voice_id, decoded=(sha256, samples))

    def replace(self, voice_id: str, recording: bytes, transcript: str = "") -> Voice:
        """Let an uploaded voice be another. Raises UnknownVoice, PreloadedVoice, and as `add` does."""
        transcript = clean_transcript(transcript)
        self._check_changeable(voice_id)
        samples = self._decode(recording)
        sha256 = hashlib.sha256(recording).hexdigest()
        with self._write_lock(recording) as staged:
            self._check_changeable(voice_id)
            write_sidecar(self._uploads, voice_id, sha256, transcript)
            self._uploads.put(staged, voice_id)
            self._uploads.remove_sidecars(voice_id, but=sha256)
        return self._loader.load(self._uploads, voice_id, decoded=(sha256, samples))

    def delete(self, voice_id: str) -> None:
        """Forget an uploaded voice, by its full id. Raises UnknownVoice, PreloadedVoice, Unavailable."""
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
            raise Unprocessable(
                f"voice_id {voice_id[:140]!r} cannot be used: take 1 to 128 of A-Z a-z 0-9 . _ -, not starting with a"
                " dot and not ending in .txt",
                code="bad_voice_id",
            )
        if re.fullmatch(r"speaker_[0-9]+", voice_id):
            raise Unprocessable(
                f"voice_id {voice_id!r} is one of the model's own speakers: take another", code="bad_voice_id"
            )

    def _find(self, voice_id: str) -> tuple[VoiceFolder, str]:
        """Where a voice lies. Full ids before short ones, and preloaded voices before uploads. Raises UnknownVoice."""
        if is_voice_id(voice_id):
            for folder in (self._preloaded, self._uploads):
                if folder.stat_file(voice_id):
                    return folder, voice_id
            for folder in (self._preloaded, self._uploads):
                named = [
                    name
                    for name in folder.voice_ids()
                    if stem_of(name) == voice_id and self._loader.is_voice(folder, name)
                ]
                if len(named) == 1:
                    return folder, named[0]
                if named:
                    raise UnknownVoice(f"voice '{voice_id}' could be any of {', '.join(named)}: send one of these")
        raise UnknownVoice(f"voice {voice_id[:140]!r} is unknown: GET /voices lists those there are")

    def _exists_error(self, voice_id: str) -> VoiceExists:
        return VoiceExists(f"voice '{voice_id}' exists: PUT /voices/{voice_id} replaces it, or take another voice_id")

    def _check_available(self, voice_id: str) -> None:
        """Ids that differ in case only are one: a folder may move to a disk that sees no difference."""
        preloaded = {name.lower() for name in self._preloaded.list_names() if is_voice_id(name)}
        if voice_id.lower() in preloaded or voice_id.lower() in {stem_of(name) for name in preloaded}:
            raise VoiceExists(f"voice '{voice_id}' is a preloaded one and stays as it is: take another voice_id")
        for name in self._uploads.list_names():
            if name.lower() == voice_id.lower():
                raise self._exists_error(name)

    def _check_changeable(self, voice_id: str) -> None:
        if is_voice_id(voice_id):
            if self._preloaded.stat_file(voice_id):
                raise PreloadedVoice(f"voice '{voice_id}' is a preloaded one: it can be neither replaced nor deleted")
            if self._uploads.stat_file(voice_id):
                return
        raise UnknownVoice(f"voice {voice_id[:140]!r} is unknown: GET /voices lists those there are")

    # ---- files

    @contextlib.contextmanager
    def _write_lock(self, recording: bytes | None = None) -> Iterator[str]:
        """Alone with the uploads, among all workers, and with a staged recording, which took its time before that.

        Raises Unavailable where the disk does not play along.
        """
        try:
            with contextlib.ExitStack() as stack:
                staged = "" if recording is None else stack.enter_context(self._uploads.staged(recording))
                stack.enter_context(self._uploads.locked())
                yield staged
        except OSError as error:
            raise Unavailable(
                f"VOICES_DIR cannot be written to: {error.strerror}; free space or give the service the right to,"
                " then try again",
                code="storage_failed",
            ) from error

    def _decode(self, recording: bytes) -> Samples:
        """In a process of its own: what came from the network shares one with nothing."""
        with self._loader.decoder() as decoder:
            return decoder.decode(recording)
