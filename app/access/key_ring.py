"""The keys that open the service: those of API_KEY, and those of a file that is read again when it changes."""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..errors import Unauthorized
from .api_keys import ApiKey, hash_key, operator_key
from .key_file import InvalidKeyFile, read_keys

CHECK_SECONDS = 0.5  # between two looks at the file

_log = logging.getLogger(__name__)


class KeyRing:
    """For the event loop of one worker. A changed file that cannot be used is reported once, and its last keys stay.

    operator_keys: of API_KEY. path: API_KEYS_FILE.
    """

    def __init__(self, operator_keys: Sequence[str], path: Path | None = None) -> None:
        self._operators = tuple(operator_key(number, key) for number, key in enumerate(operator_keys, 1))
        self._path = path
        self._version: object = None  # of the file that was last looked at
        self._next_check = 0.0
        self._known: dict[str, ApiKey] = {}  # by hash, those of API_KEY first
        self._learn(())

    @property
    def keys(self) -> tuple[ApiKey, ...]:
        """All keys, those of API_KEY first."""
        self._refresh()
        return tuple(self._known.values())

    def visible_to(self, viewer: ApiKey | None) -> tuple[ApiKey, ...]:
        """The keys whose use a caller may see: a key of API_KEY all of them, a key of the file itself."""
        return self.keys if viewer is not None and viewer.is_operator else (() if viewer is None else (viewer,))

    def current(self, key: ApiKey) -> ApiKey:
        """A key that was found before, as it stands now. Raises Unauthorized if it was removed since."""
        self._refresh()
        if (known := self._known.get(key.sha256)) is None:
            raise Unauthorized(f"the API key {key.name!r} was removed")
        return known

    def find(self, sent: Iterable[bytes]) -> ApiKey | None:
        """The first key among those sent that is valid; None without one.

        Compares every sent key with every valid key, in constant time: it does not stop at a match. Digests have
        equal lengths, so that timing does not reveal a key's length.
        """
        self._refresh()
        found: ApiKey | None = None
        for key in sent:
            digest = hash_key(key)
            for known, owner in self._known.items():
                if hmac.compare_digest(digest, known):
                    found = found or owner
        return found

    def _refresh(self) -> None:
        if self._path is None or (now := time.monotonic()) < self._next_check:
            return
        self._next_check = now + CHECK_SECONDS
        try:
            status = self._path.stat()
            version = (status.st_mtime_ns, status.st_size, status.st_ino)
            if version == self._version:
                return
            self._version = version
            keys = read_keys(self._path)
        except (OSError, InvalidKeyFile) as error:
            if isinstance(error, OSError):
                if self._version is OSError:
                    return
                self._version = OSError  # report its absence once, and read it when it is back
            _log.error("API_KEYS_FILE=%s cannot be used, so its last keys stay: %s", self._path, error)
            return
        self._learn(keys)
        _log.info("API_KEYS_FILE=%s: %d keys", self._path, len(keys))

    def _learn(self, of_file: Sequence[ApiKey]) -> None:
        self._known = {}
        for key in (*self._operators, *of_file):
            self._known.setdefault(key.sha256, key)
