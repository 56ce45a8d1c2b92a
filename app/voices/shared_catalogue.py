"""The records of shared voices: what the storage says now, and what this machine knew last."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from .mirror import Mirror
from .shared_look import SharedLook
from .shared_record import FOLDER, SharedRecord, ids_of, record_name
from .store import unknown
from .watched_storage import StorageLost, WatchedStorage

USED = "storage.used"  # a file of the mirror: voices have been found in the storage


@dataclass(frozen=True)
class _Found:
    """What a look found: the record (None: there is no such voice), unless the storage is lost."""

    record: SharedRecord | None = None
    lost: StorageLost | None = None


@dataclass(frozen=True)
class Listing:
    """The ids of the shared voices; those that are known here if the storage is lost.

    complete: they are at least those of the last answer.
    """

    ids: tuple[str, ...]
    lost: StorageLost | None = None
    complete: bool = True


class SharedCatalogue:
    """Looks at records, each caller's look shared with those who ask meanwhile. Thread-safe.

    check_seconds: how long a look counts as current.
    """

    def __init__(self, storage: WatchedStorage, mirror: Mirror, check_seconds: float) -> None:
        self._storage = storage
        self._mirror = mirror
        self._looks: SharedLook[_Found] = SharedLook(self._look_up, check_seconds)
        self._listings: SharedLook[Listing] = SharedLook(lambda _: self._list(), check_seconds)
        self._lock = threading.Lock()  # guards the two below
        self._known: dict[str, SharedRecord] = {}  # the newest record of each voice that was seen by this worker
        self._last_listing: tuple[str, ...] | None = None

    # ---- looking

    def listing(self) -> Listing:
        return self._listings(FOLDER)

    def look_at(self, voice_id: str) -> SharedRecord:
        """The record, or the last known one if the storage is lost. Raises UnknownVoice, StorageLost."""
        found = self._looks(voice_id)
        record = found.record if found.lost is None else self._last_known(voice_id)
        if record is None:
            raise unknown(voice_id) if found.lost is None else found.lost.copy()
        return record

    def look_again(self, voice_id: str) -> None:
        """A kept look was outdated: the next one is new."""
        self._looks.forget(voice_id)

    def current(self, voice_id: str) -> SharedRecord | None:
        """The record in the storage, read anew. Raises StorageLost."""
        try:
            return SharedRecord.from_bytes(self._storage.read(record_name(voice_id)))
        except FileNotFoundError:
            self._storage.check_present()
            return None
        except ValueError:  # damaged: it can be replaced and deleted
            return SharedRecord.new("0" * 64, "")

    def changed(self, voice_id: str, record: SharedRecord | None) -> None:
        """This machine has changed a voice (None: deleted it): it knows that already."""
        self._looks.forget(voice_id)
        self._listings.forget(FOLDER)
        if record is None:
            self.forget(voice_id)
        else:
            self._remember(voice_id, record)

    def forget(self, voice_id: str) -> None:
        """A voice is gone: so are its copies on this machine."""
        before = self._last_known(voice_id)
        with self._lock:
            self._known.pop(voice_id, None)
        if before is not None:
            self._mirror.remove(_copy_of_record(voice_id))
            self._drop_copies(before)

    def known_tokens(self) -> set[str]:
        """Of the uploads that this worker knows."""
        with self._lock:
            return {each.token for each in self._known.values()}

    def _look_up(self, voice_id: str) -> _Found:
        try:
            record = SharedRecord.from_bytes(self._storage.read(record_name(voice_id)))
        except FileNotFoundError:
            return self._found_nothing(voice_id)
        except ValueError as error:
            return _Found(lost=StorageLost(f"voice '{voice_id}' cannot be read: {error}; upload it again"))
        except StorageLost as error:
            return _Found(lost=error)
        self._remember(voice_id, record)
        return _Found(record)

    def _found_nothing(self, voice_id: str) -> _Found:
        try:
            self._storage.check_present()
        except StorageLost as error:
            return _Found(lost=error)
        self.forget(voice_id)
        return _Found()

    def _list(self) -> Listing:
        try:
            ids = self.ids_there()
        except StorageLost as error:
            with self._lock:
                last = self._last_listing
            return Listing(tuple(sorted({*self.ids_here(), *(last or ())})), error, complete=last is not None)
        with self._lock:
            self._last_listing = ids
        return Listing(ids)

    def ids_there(self) -> tuple[str, ...]:
        """Raises StorageLost."""
        ids = tuple(ids_of(self._storage.names(FOLDER)))
        if not ids:
            self._storage.check_present()
        return ids

    def _remember(self, voice_id: str, record: SharedRecord) -> None:
        with self._lock:
            before = self._known.get(voice_id)
            self._known[voice_id] = record
        self._storage.was_used = True
        if before != record:
            self._mirror.put(_copy_of_record(voice_id), record.to_bytes())
            self._mirror.put(USED, b"")
            if before is not None:
                self._drop_copies(before)

    def _last_known(self, voice_id: str) -> SharedRecord | None:
        with self._lock:
            record = self._known.get(voice_id)
        if record is None and (data := self._mirror.get(_copy_of_record(voice_id))) is not None:
            try:
                record = SharedRecord.from_bytes(data)
            except ValueError:
                return None
        return record

    def _drop_copies(self, record: SharedRecord) -> None:
        for name in self._mirror.names():
            if name.startswith(f"{record.token}."):
                self._mirror.remove(name)

    def ids_here(self) -> list[str]:
        """The voices whose records this machine has."""
        with self._lock:
            known = set(self._known)
        return sorted(known | set(ids_of(self._mirror.names())))


def _copy_of_record(voice_id: str) -> str:
    """The name of a record in the mirror."""
    return record_name(voice_id).removeprefix(f"{FOLDER}/")
