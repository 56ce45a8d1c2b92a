"""Voice store of many machines: recordings in object storage (VOICES_URL), with a mirror of them on this machine.

    csm-serve.json                       says that voices are kept here
    voices/amy.wav.json                  the record of a voice: token, hash and transcript of its recording, one object
    recordings/TOKEN/recording           an upload, byte for byte as received
    recordings/TOKEN/CONTENT-CODEC.npy   its codes, as the first engine of that codec has encoded them

Only records change, and each is one object: whoever writes it replaces recording and transcript at once, and everything
else has a name that is never used again. So a request reads one small object, the record, and knows whether the copies
of this machine are still those of the voice. That takes the place of a conditional request, whose validators differ
from store to store: a record is as small as the answer that nothing has changed.

Requests that ask at the same time share one read, which began after each of them. Without an answer the last known
record counts. Names as short as "amy" are looked up in the listing of the records; speaker_N is never looked up.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ..errors import ServiceError, Unavailable, UnknownVoice
from ..observability.components import Report, report_nothing
from .loader import SharedRecording, Voice
from .mirror import Mirror
from .object_storage import open_storage
from .recording_decoder import VoiceDecoder
from .shared_catalogue import USED, SharedCatalogue
from .shared_codes import SharedCodes
from .shared_record import FOLDER, SharedRecord, record_name
from .speakers import speaker_number
from .store import VoiceStore, ambiguous, unknown
from .transcript import clean_transcript
from .voice_id import AUDIO_SUFFIXES, canonical_id, is_voice_id, stem_of
from .watched_storage import StorageLost, WatchedStorage

_log = logging.getLogger(__name__)

_ATTEMPTS = 5  # to read a voice that is being replaced concurrently
_READ_AHEAD = 8  # voices that are fetched at the same time when all are loaded
_ORPHAN_SECONDS = 3600.0  # a younger recording without a record may belong to an upload in progress


@dataclass(frozen=True)
class SharedVoicesConfig:
    """url, options: of the storage (VOICES_URL, VOICES_STORAGE_OPTIONS). mirror: the directory of the local copies.

    mirror_bytes: limit of it. check_seconds: how long a record counts as current. timeout: seconds, of the storage.
    """

    url: str
    mirror: Path
    options: dict[str, object]
    mirror_bytes: int = 1 << 30
    check_seconds: float = 0.0
    timeout: float = 3.0


class SharedVoiceStore(VoiceStore):
    """A VoiceStore whose uploads are in object storage. Methods raise StorageLost, a 503, beside what theirs raise.

    preloaded: read-only directory of this machine, whose voices precede the shared ones.
    report_storage: called with the result of every call of the storage.
    """

    def __init__(
        self,
        preloaded: Path,
        shared: SharedVoicesConfig,
        *,
        max_upload_bytes: int = 25 << 20,
        max_seconds: float = 30.0,
        cache_bytes: int = 256 << 20,
        report_decoder: Report = report_nothing,
        report_storage: Report = report_nothing,
    ) -> None:
        super().__init__(
            preloaded,
            None,
            max_upload_bytes=max_upload_bytes,
            max_seconds=max_seconds,
            cache_bytes=cache_bytes,
            report_decoder=report_decoder,
        )
        place = hashlib.sha256(shared.url.encode()).hexdigest()[:16]  # another storage has a mirror of its own
        self._mirror = Mirror(shared.mirror / place, shared.mirror_bytes)
        self._storage = WatchedStorage(
            lambda: open_storage(shared.url, shared.options, shared.timeout),
            shared.url,
            timeout=shared.timeout,
            max_object_bytes=max_upload_bytes,
            report=report_storage,
            was_used=self._mirror.get(USED) is not None,
        )
        self._cache_bytes = cache_bytes
        self._catalogue = SharedCatalogue(self._storage, self._mirror, shared.check_seconds)
        self._background = ThreadPoolExecutor(1, thread_name_prefix="share-voices")

    def close(self) -> None:
        self._background.shutdown(wait=True, cancel_futures=True)
        self._storage.close()

    # ---- reading

    def ids(self) -> list[str]:
        """As VoiceStore's; those that this machine knows if the storage is lost."""
        return sorted({*self._preloaded_ids(), *self._catalogue.listing().ids})

    def get(self, voice_id: str) -> Voice:
        """As VoiceStore's: full ids before stems, preloaded before shared voices."""
        voice_id = canonical_id(voice_id)
        if not is_voice_id(voice_id) or self._hides(voice_id) or speaker_number(voice_id) is not None:
            return super().get(voice_id)
        listed = None if voice_id.lower().endswith(tuple(AUDIO_SUFFIXES)) else self._catalogue.listing()
        if listed is None or voice_id in listed.ids:  # the name of a file is looked up at once
            with contextlib.suppress(UnknownVoice):
                return self._get_shared(voice_id)
        with contextlib.suppress(UnknownVoice):
            return super().get(voice_id)  # the stem of a preloaded voice
        listed = listed or self._catalogue.listing()
        matches = [each for each in listed.ids if stem_of(each) == voice_id]
        if len(matches) > 1:
            raise ambiguous(voice_id, matches)
        if matches:
            return self._get_shared(matches[0])
        raise unknown(voice_id) if listed.lost is None else listed.lost.copy(unlisted=listed.complete)

    def _load_each(self, decoder: VoiceDecoder) -> Iterator[tuple[str, Voice | ServiceError]]:
        """The preloaded voices, and as many shared ones as the cache of decoded recordings holds."""
        yield from self._load_files(sorted(self._preloaded_ids()), decoder)
        listed = self._catalogue.listing()
        if listed.lost is None:
            for voice_id in set(self._catalogue.ids_here()).difference(listed.ids):
                self._catalogue.forget(voice_id)
        ids = [each for each in listed.ids if not self._hides(each)]
        loaded_bytes = 0
        with ThreadPoolExecutor(_READ_AHEAD, thread_name_prefix="load-voices") as threads:
            for start in range(0, len(ids), _READ_AHEAD):
                if loaded_bytes > self._cache_bytes:
                    _log.info("%d more shared voices are loaded at their first request", len(ids) - start)
                    break
                batch = ids[start : start + _READ_AHEAD]
                for voice_id, record in zip(batch, threads.map(self._fetch, batch), strict=True):
                    try:
                        if isinstance(record, ServiceError):
                            raise record
                        voice = self._loader.load_shared(self._recording_of(voice_id, record), decoder=decoder)
                        loaded_bytes += voice.prompt.samples.nbytes
                        yield voice_id, voice
                    except FileNotFoundError:
                        yield voice_id, unknown(voice_id)
                    except ServiceError as error:
                        yield voice_id, error
        if listed.lost is None:
            self._background.submit(self._clean_up)

    def _fetch(self, voice_id: str) -> SharedRecord | ServiceError:
        """Look at a voice and have its recording in the mirror."""
        try:
            found = self._catalogue.look_at(voice_id)
            self._read(voice_id, found)
        except ServiceError as error:
            return error
        except FileNotFoundError:
            return unknown(voice_id)
        return found

    def _hides(self, voice_id: str) -> bool:
        """Whether a preloaded voice has this id."""
        return self._preloaded.stat_file(voice_id) is not None

    def _get_shared(self, voice_id: str) -> Voice:
        for _ in range(_ATTEMPTS):
            record = self._catalogue.look_at(voice_id)
            try:
                return self._loader.load_shared(self._recording_of(voice_id, record))
            except FileNotFoundError:  # replaced or deleted since the look
                self._catalogue.look_again(voice_id)
        raise Unavailable(f"voice '{voice_id}' is changing continuously: try again", retry_after=1)

    def _recording_of(self, voice_id: str, record: SharedRecord) -> SharedRecording:
        codes = SharedCodes(self._storage, self._mirror, record, self._background)
        return SharedRecording(
            voice_id, record.sha256, record.transcript, record.created, lambda: self._read(voice_id, record), codes
        )

    def _read(self, voice_id: str, record: SharedRecord) -> bytes:
        """The recording, from the mirror or the storage. Raises FileNotFoundError, StorageLost."""
        copy = f"{record.token}.recording"
        data = self._mirror.get(copy)
        if data is not None and hashlib.sha256(data).hexdigest() == record.sha256:
            return data
        data = self._storage.read(record.recording, large=True)
        if hashlib.sha256(data).hexdigest() != record.sha256:
            raise StorageLost(f"the recording of voice '{voice_id}' is damaged in the storage: upload it again")
        self._mirror.put(copy, data)
        return data

    # ---- changing

    def add(self, voice_id: str, recording: bytes, transcript: str = "") -> Voice:
        """As VoiceStore's. Of two machines that add one id at the same time, one is told that it exists."""
        voice_id = canonical_id(voice_id)
        self._check_id(voice_id)
        transcript = clean_transcript(transcript)
        self._check_available(voice_id)
        decoded = self.decode(recording)
        record = SharedRecord.new(hashlib.sha256(recording).hexdigest(), transcript)
        self._storage.mark_used()
        self._storage.write(record.recording, recording)
        try:
            self._storage.create(record_name(voice_id), record.to_bytes())
        except FileExistsError:
            # They are equal where the answer to the first try was lost, and a second was made.
            if self._catalogue.current(voice_id) != record:
                self._remove_objects(record)
                raise self._exists_error(voice_id) from None
        self._changed(voice_id, record, recording)
        return self._loader.load_shared(self._recording_of(voice_id, record), decoded=decoded)

    def replace(self, voice_id: str, recording: bytes, transcript: str = "") -> Voice:
        voice_id = canonical_id(voice_id)
        transcript = clean_transcript(transcript)
        self._check_changeable(voice_id)
        decoded = self.decode(recording)
        record = SharedRecord.new(hashlib.sha256(recording).hexdigest(), transcript)
        self._storage.write(record.recording, recording)
        before = self._catalogue.current(voice_id)
        if before is None:
            self._remove_objects(record)
            raise unknown(voice_id)
        self._storage.write(record_name(voice_id), record.to_bytes())
        self._remove_objects(before)
        self._changed(voice_id, record, recording)
        return self._loader.load_shared(self._recording_of(voice_id, record), decoded=decoded)

    def delete(self, voice_id: str) -> None:
        voice_id = canonical_id(voice_id)
        self._check_changeable(voice_id)
        before = self._catalogue.current(voice_id)
        if before is None:
            raise unknown(voice_id)
        self._storage.delete(record_name(voice_id))
        self._changed(voice_id, None, b"")
        self._remove_objects(before)

    def _upload_names(self) -> list[str]:
        return list(self._catalogue.ids_there())

    def _is_upload(self, voice_id: str) -> bool:
        return self._catalogue.current(voice_id) is not None

    def _changed(self, voice_id: str, record: SharedRecord | None, recording: bytes) -> None:
        """This machine has changed a voice: it knows that already, and has the recording."""
        if record is not None:
            self._mirror.put(f"{record.token}.recording", recording)
        self._catalogue.changed(voice_id, record)

    def _remove_objects(self, record: SharedRecord) -> None:
        """Remove an upload that no record names any more; what remains of it is cleaned up at a later start."""
        try:
            for name in self._storage.names(record.folder):
                self._storage.delete(f"{record.folder}/{name}")
        except StorageLost as error:
            _log.warning("a recording that is not used any more was not removed: %s", error.detail)

    # ---- cleaning up

    def _clean_up(self) -> None:
        """Remove uploads that ended half-way: older recordings that no record names."""
        try:
            tokens = self._catalogue.known_tokens()
            unnamed = set(self._storage.names("recordings")) - tokens
            if not unnamed:
                return
            for name in self._storage.names(FOLDER):  # all of them, those that this machine does not use too
                tokens.add(SharedRecord.from_bytes(self._storage.read(f"{FOLDER}/{name}")).token)
            for token in sorted(unnamed - tokens):
                names = [f"recordings/{token}/{name}" for name in self._storage.names(f"recordings/{token}")]
                if all(self._storage.age(each) > _ORPHAN_SECONDS for each in names):
                    for name in names:
                        self._storage.delete(name)
                    _log.info("removed an upload from VOICES_URL that no voice uses: %s", token)
        except (StorageLost, FileNotFoundError, ValueError) as error:
            _log.info("VOICES_URL was not cleaned up: %s", error)
