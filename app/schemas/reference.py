"""A voice that comes with the request: a recording, and what is said in it."""

from __future__ import annotations

import re

from pydantic import Field, field_validator

from .parameters import RequestParameters

_URL = re.compile(r"\s*[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def refuse_url(audio: str) -> str:
    """The recording unchanged. Raises ValueError if it is a URL."""
    if _URL.match(audio):
        raise ValueError("no URL is fetched: send the recording itself, as base64 or a data URI")
    return audio


class ReferenceRecording(RequestParameters):
    """The recording of a one-off voice. Reading the recording itself is left to whoever speaks."""

    audio: str = Field(description="The recording, as base64 or a data URI; the limits are those of POST /voices.")
    transcript: str = Field("", description="The words spoken in it; the voice is much closer with them.")

    @field_validator("audio")
    @classmethod
    def _refuse_url(cls, audio: str) -> str:
        return refuse_url(audio)
