"""The body of /v1/audio/speech (API.md section 5): OpenAI's, and the recording of a voice as other servers take it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from .parameters import RequestParameters
from .reference import MAX_URL_CHARACTERS, ReferenceRecording
from .speech import SampleRate, require_text

_SEND_REFERENCE = "send the recording as ref_audio (base64, a data URI or a URL) and its words as ref_text"
_SEND_VOICE = "send voice"
_SEND_INPUT = "write what is to be said in input"
# Fields of other servers that change who speaks or what is said, and what to send instead. All others are ignored.
REFUSED_FIELDS = {
    **dict.fromkeys(
        (
            *("audio_prompt", "audio_prompt_path", "prompt_audio", "prompt_speech", "prompt_wav", "speaker_wav"),
            *("prompt_text", "prompt_transcript", "reference", "reference_audio", "reference_id", "reference_text"),
            *("references", "ref_audio_path", "ref_audio_url", "ref_codes", "speaker_audio", "speaker_embedding"),
            *("voice_clone", "voice_prompt", "x_vector_only_mode"),
        ),
        _SEND_REFERENCE,
    ),
    **dict.fromkeys(("speaker", "speaker_id", "speakers", "voice_id", "voices", "voice_mix"), _SEND_VOICE),
    **dict.fromkeys(("dialogue", "lexicon", "messages", "phonemes", "pronunciation_dict", "ssml"), _SEND_INPUT),
    "task_type": "leave it out, or send Base with ref_audio",
}


class VoiceReference(BaseModel):
    """A custom voice, as OpenAI's newer clients refer to it."""

    id: str = Field(min_length=1, max_length=128)


class OpenAISpeech(RequestParameters):
    """The body of /v1/audio/speech.

    OpenAI's other parameters, such as `instructions`, are ignored; fields of other servers are refused where they
    would change who speaks or what is said.
    """

    model_config = ConfigDict(extra="ignore")

    model: str = Field("csm-1b", max_length=128, description="Ignored: the service has one model.")
    input: str = Field(min_length=1, description="The text to speak; at most MAX_TEXT_LENGTH characters.")
    voice: Annotated[str, Field(min_length=1, max_length=128)] | VoiceReference = Field(
        "alloy", description="A voice of GET /v1/audio/voices: one of GET /voices, speaker_N, or a name of OpenAI's."
    )
    ref_audio: str | None = Field(
        None,
        description="Beyond OpenAI's API: the recording of a one-off voice, as base64, a data URI, or a URL of "
        "REFERENCE_HOSTS; voice is ignored.",
    )
    ref_text: str | None = Field(None, description="The words spoken in ref_audio.")
    response_format: str = Field(
        "mp3", max_length=64, description="mp3, opus, aac, flac, wav, pcm, or a format of /tts/generate."
    )
    speed: float = Field(1.0, ge=0.25, le=4, description="2 takes half the time; the pitch stays.")
    stream_format: Literal["audio", "sse"] = "audio"
    timestamps: bool = Field(
        False, description="Beyond OpenAI's API: also send speech.audio.mark events, with stream_format sse."
    )
    sample_rate: SampleRate | None = Field(None, description="Beyond OpenAI's API: as on /tts/generate.")

    @model_validator(mode="before")
    @classmethod
    def _refuse_what_changes_the_speech(cls, body: Any) -> Any:
        """Raises ValueError that names a field; one that is null, false or empty asks for nothing."""
        if isinstance(body, dict):
            for name, advice in REFUSED_FIELDS.items():
                if body.get(name) in (None, False, "", [], {}):
                    continue
                if name == "task_type" and body["task_type"] == "Base" and body.get("ref_audio") is not None:
                    continue  # another server's name for a voice from a recording
                raise ValueError(f"{name} is not supported, and would change who speaks or what is said: {advice}")
        return body

    @model_validator(mode="after")
    def _check_reference(self) -> OpenAISpeech:
        if self.ref_text and self.ref_audio is None:
            raise ValueError("ref_text is the transcript of ref_audio, which is missing: send both")
        if self.reference is not None and len(self.reference.url or "") > MAX_URL_CHARACTERS:
            raise ValueError(f"ref_audio is a URL of more than {MAX_URL_CHARACTERS} characters: send a shorter one")
        return self

    @model_validator(mode="after")
    def _check_timestamps(self) -> OpenAISpeech:
        if self.timestamps and self.stream_format != "sse":
            raise ValueError("timestamps are events: send stream_format sse with it")
        return self

    @field_validator("input")
    @classmethod
    def _require_text(cls, text: str) -> str:
        return require_text(text)

    @property
    def voice_name(self) -> str:
        return self.voice if isinstance(self.voice, str) else self.voice.id

    @property
    def reference(self) -> ReferenceRecording | None:
        if self.ref_audio is None:
            return None
        return ReferenceRecording.of(self.ref_audio, self.ref_text or "")
