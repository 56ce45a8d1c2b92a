"""The record of a shared voice: the one small object that changes, and says which recording a voice has now."""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from .transcript import MAX_CHARACTERS
from .voice_id import is_voice_id

FOLDER = "voices"
_SUFFIX = ".json"
_TOKEN = re.compile(r"[0-9a-f]{32}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class SharedRecord:
    """token: names the upload. sha256, transcript: of its recording. created: when it was uploaded, ISO 8601 in UTC."""

    token: str
    sha256: str
    transcript: str
    created: str

    @staticmethod
    def new(sha256: str, transcript: str) -> SharedRecord:
        """The record of an upload: with a token of its own, so that nothing of another upload is ever in its place."""
        return SharedRecord(secrets.token_hex(16), sha256, transcript, datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def folder(self) -> str:
        """The objects of this upload: the recording, and its codes."""
        return f"recordings/{self.token}"

    @property
    def recording(self) -> str:
        return f"{self.folder}/recording"

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self), ensure_ascii=False, indent=1).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> SharedRecord:
        """Raises ValueError: what others can write to is checked."""
        try:
            record = cls(**json.loads(data))
            texts = all(isinstance(each, str) for each in asdict(record).values())
            if not texts or not _TOKEN.fullmatch(record.token) or not _SHA256.fullmatch(record.sha256):
                raise ValueError("its token or hash is not one")
            if len(record.transcript) > MAX_CHARACTERS or datetime.fromisoformat(record.created).tzinfo is None:
                raise ValueError("its transcript is too long, or its date has no time zone")
        except (TypeError, ValueError) as error:
            raise ValueError(f"the record is damaged: {error}") from None
        return record


def record_name(voice_id: str) -> str:
    """The name of a voice's record, in the storage."""
    return f"{FOLDER}/{voice_id}{_SUFFIX}"


def ids_of(names: list[str]) -> list[str]:
    """The ids of the voices whose records are named so."""
    ids = (name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX))
    return sorted(voice_id for voice_id in ids if is_voice_id(voice_id))
