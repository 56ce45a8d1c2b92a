"""API keys: whom a key belongs to, and what it may use."""

from __future__ import annotations

import hashlib
import re

from pydantic import BaseModel, ConfigDict, Field, field_validator

LIMITS = ("concurrent_slots", "requests_per_minute", "audio_seconds_per_minute", "audio_seconds_per_day")
MAX_KEYS = 1000  # of the file; it bounds the labels of /metrics too

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_OPERATOR_PREFIX = "api_key_"  # of the names of API_KEY's entries


class ApiKey(BaseModel):
    """One key, as it stands in API_KEYS_FILE.

    name: in logs and metrics. sha256: of the key, in hexadecimal: a key of 256 random bits needs no slower hash.
    weight: its share of the slots where keys wait for them. The rest are limits; None is none.
    concurrent_slots: slots of its requests that wait or speak; a request with guidance takes two.
    created: when the entry was made, in ISO 8601.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    weight: float = Field(default=1.0, ge=0.01, le=1000, allow_inf_nan=False)
    concurrent_slots: int | None = Field(default=None, ge=1, le=1_000_000)
    requests_per_minute: int | None = Field(default=None, ge=1, le=1_000_000_000)
    audio_seconds_per_minute: int | None = Field(default=None, ge=1, le=1_000_000_000)
    audio_seconds_per_day: int | None = Field(default=None, ge=1, le=1_000_000_000)
    created: str | None = Field(default=None, max_length=40)

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError("use 1 to 64 letters, digits and . _ -, the first a letter or a digit")
        return name

    @property
    def is_operator(self) -> bool:
        """Whether it is a key of API_KEY: it has no limits, and sees the use of all keys."""
        return self.name.startswith(_OPERATOR_PREFIX)

    @property
    def limits(self) -> dict[str, int]:
        """The limits that are set, by name."""
        return {name: limit for name in LIMITS if (limit := getattr(self, name)) is not None}


def hash_key(key: str | bytes) -> str:
    """The hash of a key, in hexadecimal."""
    return hashlib.sha256(key.encode() if isinstance(key, str) else key).hexdigest()


def operator_key(number: int, key: str) -> ApiKey:
    """The key at a place of API_KEY, from 1."""
    return ApiKey(name=f"{_OPERATOR_PREFIX}{number}", sha256=hash_key(key))
