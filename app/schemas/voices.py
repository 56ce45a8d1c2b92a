"""Response bodies of /voices (API.md section 2)."""

from __future__ import annotations

from pydantic import BaseModel


class VoiceStored(BaseModel):
    """The response to an upload. warnings: quality problems of the recording, each a sentence that says what to do."""

    voice_id: str
    message: str
    warnings: list[str]


class VoiceDeleted(BaseModel):
    message: str


class VoiceDetails(BaseModel):
    """Metadata of a voice. created: ISO 8601 in UTC. sha256: of the recording as uploaded."""

    id: str
    seconds: float
    has_transcript: bool
    preloaded: bool
    created: str
    sha256: str
