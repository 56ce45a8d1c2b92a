"""A voice that comes with the request: a recording, or where it is, and what is said in it."""

from __future__ import annotations

import re
from typing import Any

from pydantic import Field, model_validator

from .parameters import RequestParameters

MAX_URL_CHARACTERS = 4096
_URL = re.compile(r"\s*[a-z][a-z0-9+.-]*://", re.IGNORECASE)


class ReferenceRecording(RequestParameters):
    """The recording of a one-off voice. Reading it is left to whoever speaks.

    Exactly one of audio and url is set.
    """

    audio: str | None = Field(
        None, description="The recording, as base64 or a data URI; the limits are those of POST /voices."
    )
    url: str | None = Field(
        None, max_length=MAX_URL_CHARACTERS, description="Where it is: a URL of a host that REFERENCE_HOSTS lists."
    )
    transcript: str = Field("", description="The words spoken in it; the voice is much closer with them.")

    @classmethod
    def of(cls, audio_or_url: str, transcript: str) -> ReferenceRecording:
        """From a field that takes both; unvalidated."""
        if _URL.match(audio_or_url):
            return cls.model_construct(audio=None, url=audio_or_url.strip(), transcript=transcript)
        return cls.model_construct(audio=audio_or_url, url=None, transcript=transcript)

    @model_validator(mode="before")
    @classmethod
    def _take_url_in_audio(cls, fields: Any) -> Any:
        """Other servers take both in one field."""
        if isinstance(fields, dict) and isinstance(fields.get("audio"), str) and _URL.match(fields["audio"]):
            if fields.get("url") is not None:
                raise ValueError("audio and url are two recordings: send one of them")
            return {**fields, "audio": None, "url": fields["audio"].strip()}
        return fields

    @model_validator(mode="after")
    def _check_one(self) -> ReferenceRecording:
        if (self.audio is None) == (self.url is None):
            raise ValueError("it needs either audio, the recording as base64 or a data URI, or url")
        return self
