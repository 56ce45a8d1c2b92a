"""The voice of a conversation: one of the service's, or a recording that comes with its settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import anyio.to_thread
from pydantic import ValidationError

from engine import VoicePrompt

from ..errors import UnknownVoice, Unprocessable
from ..middleware.error_handlers import describe_all
from ..pool.references import ReferenceResolver
from ..schemas.reference import ReferenceRecording
from ..voices.openai_voices import resolve_voice_id
from ..voices.speakers import speaker_number
from ..voices.store import VoiceStore

REFERENCE = ".reference"  # what the settings name a recording from then on; no voice has such an id


@dataclass(frozen=True, eq=False)
class SessionVoice:
    """voice_id: None for a recording, whose prompt is here. speaker: the model's speaker id."""

    voice_id: str | None = None
    speaker: int = 0
    prompt: VoicePrompt | None = None


class SessionVoices:
    """Finds the voices that settings name."""

    def __init__(self, store: VoiceStore, references: ReferenceResolver) -> None:
        self._store = store
        self._references = references

    async def take_reference(self, changes: Mapping[str, Any]) -> tuple[dict[str, Any], VoicePrompt | None]:
        """Replace the recording in changes of a session, `{"audio": {"output": {"voice": {"reference": {…}}}}}`, by a
        name, since the settings are sent back with every change. Returns them, and its voice if there is one.

        Raises Unprocessable if it is invalid, and what `ReferenceResolver.load` raises.
        """
        output = _object(_object(changes.get("audio")).get("output"))
        voice = _object(output.get("voice"))
        if "reference" not in voice:
            return dict(changes), None
        if len(voice) > 1:
            raise Unprocessable("audio.output.voice: it needs either an id or a reference", code="invalid_value")
        try:
            recording = ReferenceRecording.model_validate(voice["reference"])
        except ValidationError as error:
            place = ("audio", "output", "voice", "reference")
            raise Unprocessable(describe_all(error, place), code="invalid_value") from None
        prompt = await self._references.load(recording)
        audio = {**changes["audio"], "output": {**output, "voice": REFERENCE}}
        return {**changes, "audio": audio}, prompt

    async def find(self, name: str, reference: VoicePrompt | None) -> SessionVoice:
        """The voice of a name. reference: the recording that REFERENCE stands for. Raises UnknownVoice."""
        if name != REFERENCE:
            return await anyio.to_thread.run_sync(self._find, name)
        if reference is None:
            raise UnknownVoice("no recording was sent as the voice of this session: send it as voice.reference")
        return SessionVoice(None, reference.speaker or 0, reference)

    def _find(self, name: str) -> SessionVoice:
        voice_id = resolve_voice_id(self._store, name)
        try:
            return SessionVoice(voice_id, self._store.get(voice_id).prompt.speaker or 0)
        except UnknownVoice:
            speaker = speaker_number(voice_id)
            if speaker is None:
                raise
            return SessionVoice(voice_id, speaker)


def _object(value: object) -> Mapping[str, Any]:
    """A JSON object; empty for anything else, which validation refuses afterwards."""
    return value if isinstance(value, dict) else {}
