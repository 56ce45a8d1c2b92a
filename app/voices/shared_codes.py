"""Codes of shared recordings beside them in the storage, so that a voice is encoded once for all machines."""

from __future__ import annotations

import io
import logging
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from engine import Codes

from ..errors import ServiceError
from .mirror import Mirror
from .shared_record import SharedRecord
from .watched_storage import WatchedStorage

_log = logging.getLogger(__name__)
_MAX_FRAMES, _MAX_CODEBOOKS = 20_000, 64  # 600 s are 7500 frames


class SharedCodes:
    """Implements `engine.CodesStore` for one upload. An error of the storage means that the voice is encoded here.

    The codes are keyed by the content as well as by the codec: another way to prepare recordings gives other samples.
    save_executor: writes them, while the voice is spoken already.
    """

    def __init__(
        self,
        storage: WatchedStorage,
        mirror: Mirror,
        record: SharedRecord,
        save_executor: ThreadPoolExecutor,
    ) -> None:
        self._storage = storage
        self._mirror = mirror
        self._record = record
        self._save_executor = save_executor

    def load(self, content: str, codec: str) -> Codes | None:
        name = _name(content, codec)
        copy = f"{self._record.token}.{name}"
        if (data := self._mirror.get(copy)) is not None and (codes := _parse(data)) is not None:
            return codes
        if self._storage.lost:
            return None
        try:
            data = self._storage.read(f"{self._record.folder}/{name}")
        except (FileNotFoundError, ServiceError):
            return None
        codes = _parse(data)
        if codes is not None:
            self._mirror.put(copy, data)
        return codes

    def save(self, content: str, codec: str, codes: Codes) -> None:
        name = _name(content, codec)
        buffer = io.BytesIO()
        np.save(buffer, codes.astype(np.int16), allow_pickle=False)  # a codebook has 2048 codes
        data = buffer.getvalue()
        self._mirror.put(f"{self._record.token}.{name}", data)
        try:
            self._save_executor.submit(self._write, f"{self._record.folder}/{name}", data)
        except RuntimeError:  # closing
            return

    def _write(self, name: str, data: bytes) -> None:
        try:
            self._storage.write(name, data)
        except ServiceError as error:
            _log.warning("the codes of a voice are not shared, other machines encode it too: %s", error.detail)


def _name(content: str, codec: str) -> str:
    return f"{content[:16]}-{codec}.npy"


def _parse(data: bytes) -> Codes | None:
    """Codes as `save` writes them; None for anything else. What they mean the engine checks."""
    codes: object
    try:
        codes = np.load(io.BytesIO(data), allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError):
        return None
    if not isinstance(codes, np.ndarray) or codes.ndim != 2 or codes.dtype != np.int16:
        return None
    if codes.shape[0] > _MAX_FRAMES or codes.shape[1] > _MAX_CODEBOOKS:
        return None
    return codes.astype(np.int64)
