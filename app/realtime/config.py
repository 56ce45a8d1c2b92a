"""Configuration of a conversation: the `session` object of the Realtime protocol."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..errors import Unprocessable
from ..middleware.error_handlers import describe_all

Modality = Literal["audio", "text"]
_REPLACED = frozenset({"format", "transcription", "turn_detection", "tools", "tool_choice", "prompt", "voice"})


class _Model(BaseModel):
    """Fields that OpenAI has and this service does not use are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class PcmFormat(_Model):
    """16-bit little-endian PCM, mono, 24 kHz."""

    type: Literal["audio/pcm"] = "audio/pcm"
    rate: Literal[24000] = 24000


class MulawFormat(_Model):
    """G.711 µ-law, 8 kHz."""

    type: Literal["audio/pcmu"] = "audio/pcmu"


class AlawFormat(_Model):
    """G.711 A-law, 8 kHz."""

    type: Literal["audio/pcma"] = "audio/pcma"


AudioFormat = Annotated[PcmFormat | MulawFormat | AlawFormat, Field(discriminator="type")]


class ServerVad(_Model):
    """The end of a turn is a silence of a fixed length."""

    type: Literal["server_vad"] = "server_vad"
    threshold: float = Field(default=0.5, ge=0, le=1)
    prefix_padding_ms: int = Field(default=300, ge=0, le=5000)
    silence_duration_ms: int = Field(default=500, ge=32, le=10_000)
    create_response: bool = True
    interrupt_response: bool = True


class SemanticVad(_Model):
    """The end of a turn is a silence after which it sounds finished, or a long one, which depends on `eagerness`."""

    type: Literal["semantic_vad"] = "semantic_vad"
    eagerness: Literal["low", "medium", "high", "auto"] = "auto"
    create_response: bool = True
    interrupt_response: bool = True


# Silence that ends a turn of semantic VAD: of any turn, where nothing can judge it, and of one that sounds unfinished.
_EAGER_SILENCE_MS = {"low": 1200, "medium": 700, "auto": 700, "high": 400}
_LONGEST_PAUSE_MS = {"low": 8000, "medium": 4000, "auto": 4000, "high": 2000}


class InputTranscription(_Model):
    """Which transcripts of the user's audio are sent. The model is the service's own, whatever its name here."""

    model: str | None = Field(default=None, max_length=200)
    language: str | None = Field(default=None, max_length=20)
    prompt: str | None = Field(default=None, max_length=2000)


class AudioInput(_Model):
    """turn_detection: None leaves the end of a turn to the client. transcription: None sends no transcripts."""

    format: AudioFormat = PcmFormat()
    turn_detection: Annotated[ServerVad | SemanticVad, Field(discriminator="type")] | None = ServerVad()
    transcription: InputTranscription | None = InputTranscription()


class VoiceReference(_Model):
    id: str = Field(min_length=1, max_length=128)


class AudioOutput(_Model):
    format: AudioFormat = PcmFormat()
    voice: Annotated[str, Field(min_length=1, max_length=128)] | VoiceReference = "alloy"
    speed: float = Field(default=1.0, ge=0.25, le=4)

    @property
    def voice_name(self) -> str:
        return self.voice if isinstance(self.voice, str) else self.voice.id


class AudioConfig(_Model):
    input: AudioInput = AudioInput()
    output: AudioOutput = AudioOutput()


class ResponseConfig(_Model):
    """What a response is made with: part of the session, and what `response.create` may replace."""

    instructions: str = Field(default="", max_length=100_000)
    output_modalities: list[Modality] = Field(default=["audio"], min_length=1)
    tools: list[dict[str, Any]] = Field(default=[], max_length=128)
    tool_choice: str | dict[str, Any] = "auto"
    max_output_tokens: Annotated[int, Field(ge=1, le=100_000)] | Literal["inf"] = "inf"
    temperature: float | None = Field(default=None, ge=0, le=2)

    @property
    def speaks(self) -> bool:
        return "audio" in self.output_modalities


class SessionConfig(ResponseConfig):
    """The configuration of one connection."""

    type: Literal["realtime"] = "realtime"
    audio: AudioConfig = AudioConfig()

    @property
    def detects_turns(self) -> bool:
        """Else the client decides."""
        return self.audio.input.turn_detection is not None

    @property
    def judges_turns(self) -> bool:
        """Whether a turn may end because it sounds finished."""
        return isinstance(self.audio.input.turn_detection, SemanticVad)

    def vad(self, *, judged: bool = False) -> ServerVad | None:
        """Turn detection as server VAD; None if the client decides.

        judged: with semantic VAD, the turn also ends when it sounds finished.
        """
        detection = self.audio.input.turn_detection
        if isinstance(detection, SemanticVad):
            silences = _LONGEST_PAUSE_MS if judged else _EAGER_SILENCE_MS
            return ServerVad(
                silence_duration_ms=silences[detection.eagerness],
                create_response=detection.create_response,
                interrupt_response=detection.interrupt_response,
            )
        return detection

    def updated(self, changes: dict[str, Any]) -> SessionConfig:
        """The configuration with a client's changes: objects are merged, lists and formats replaced.

        Raises Unprocessable if a value is invalid.
        """
        return _validate(SessionConfig, _merge(self.model_dump(), changes))

    def for_response(self, changes: dict[str, Any]) -> SessionConfig:
        """The configuration of one response. Raises Unprocessable."""
        output = changes.get("audio")
        kept = {name: value for name, value in changes.items() if name in ResponseConfig.model_fields}
        if isinstance(output, dict):
            kept["audio"] = {"output": output.get("output") or {}}
        return self.updated(kept)


def _merge(current: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Null leaves a field as it is, except where null is a value of its own."""
    merged = dict(current)
    for name, value in changes.items():
        if isinstance(value, dict) and isinstance(current.get(name), dict) and name not in _REPLACED:
            merged[name] = _merge(current[name], value)
        elif value is not None or name in ("turn_detection", "transcription"):
            merged[name] = value
    return merged


def _validate(model: type[SessionConfig], body: dict[str, Any]) -> SessionConfig:
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise Unprocessable(describe_all(error), code="invalid_value") from None
