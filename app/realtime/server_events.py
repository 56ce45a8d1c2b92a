"""Events that the service sends, as typed models."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from typing import Any, Literal

from pydantic import BaseModel, Field

from ..errors import ServiceError


def new_id(prefix: str) -> str:
    return f"{prefix}_{uuid.uuid4().hex[:24]}"


class ServerEvent(BaseModel):
    event_id: str = Field(default_factory=lambda: new_id("event"))
    type: str

    def to_json(self) -> str:
        return self.model_dump_json()


Send = Callable[[ServerEvent], Awaitable[None]]


class SessionEvent(ServerEvent):
    type: Literal["session.created", "session.updated"]
    session: dict[str, Any]


class ErrorBody(BaseModel):
    type: str
    code: str
    message: str
    param: str | None = None
    event_id: str | None = None


class ErrorEvent(ServerEvent):
    type: Literal["error"] = "error"
    error: ErrorBody


class SpeechStarted(ServerEvent):
    """audio_start_ms: of the audio received so far, the padding before the speech included."""

    type: Literal["input_audio_buffer.speech_started"] = "input_audio_buffer.speech_started"
    audio_start_ms: int
    item_id: str


class SpeechStopped(ServerEvent):
    type: Literal["input_audio_buffer.speech_stopped"] = "input_audio_buffer.speech_stopped"
    audio_end_ms: int
    item_id: str


class Committed(ServerEvent):
    type: Literal["input_audio_buffer.committed"] = "input_audio_buffer.committed"
    previous_item_id: str | None
    item_id: str


class Cleared(ServerEvent):
    type: Literal["input_audio_buffer.cleared"] = "input_audio_buffer.cleared"


class ItemEvent(ServerEvent):
    type: Literal["conversation.item.added", "conversation.item.done"]
    previous_item_id: str | None
    item: dict[str, Any]


class ItemRetrieved(ServerEvent):
    type: Literal["conversation.item.retrieved"] = "conversation.item.retrieved"
    item: dict[str, Any]


class ItemTruncated(ServerEvent):
    type: Literal["conversation.item.truncated"] = "conversation.item.truncated"
    item_id: str
    content_index: int
    audio_end_ms: int


class ItemDeleted(ServerEvent):
    type: Literal["conversation.item.deleted"] = "conversation.item.deleted"
    item_id: str


class TranscriptionDelta(ServerEvent):
    type: Literal["conversation.item.input_audio_transcription.delta"] = (
        "conversation.item.input_audio_transcription.delta"
    )
    item_id: str
    content_index: int = 0
    delta: str


class TranscriptionCompleted(ServerEvent):
    type: Literal["conversation.item.input_audio_transcription.completed"] = (
        "conversation.item.input_audio_transcription.completed"
    )
    item_id: str
    content_index: int = 0
    transcript: str
    usage: dict[str, Any]


class TranscriptionFailed(ServerEvent):
    type: Literal["conversation.item.input_audio_transcription.failed"] = (
        "conversation.item.input_audio_transcription.failed"
    )
    item_id: str
    content_index: int = 0
    error: ErrorBody


class ResponseEvent(ServerEvent):
    type: Literal["response.created", "response.done"]
    response: dict[str, Any]


class OutputItem(ServerEvent):
    type: Literal["response.output_item.added", "response.output_item.done"]
    response_id: str
    output_index: int
    item: dict[str, Any]


class _OutputPlace(ServerEvent):
    response_id: str
    item_id: str
    output_index: int


class _OutputPart(_OutputPlace):
    content_index: int = 0


class ContentPartEvent(_OutputPart):
    type: Literal["response.content_part.added", "response.content_part.done"]
    part: dict[str, Any]


class OutputDelta(_OutputPart):
    """delta: text, or base64 audio in the format of the session's output."""

    type: Literal["response.output_audio.delta", "response.output_audio_transcript.delta", "response.output_text.delta"]
    delta: str


class AudioDone(_OutputPart):
    type: Literal["response.output_audio.done"] = "response.output_audio.done"


class TranscriptDone(_OutputPart):
    type: Literal["response.output_audio_transcript.done"] = "response.output_audio_transcript.done"
    transcript: str


class TextDone(_OutputPart):
    type: Literal["response.output_text.done"] = "response.output_text.done"
    text: str


class ArgumentsDelta(_OutputPlace):
    type: Literal["response.function_call_arguments.delta"] = "response.function_call_arguments.delta"
    call_id: str
    delta: str


class ArgumentsDone(_OutputPlace):
    type: Literal["response.function_call_arguments.done"] = "response.function_call_arguments.done"
    call_id: str
    name: str
    arguments: str


def error_body(error: ServiceError, event_id: str | None = None) -> ErrorBody:
    kind = "server_error" if error.status >= 500 else "invalid_request_error"
    return ErrorBody(type=kind, code=error.code, message=error.detail, event_id=event_id)


def error_event(error: ServiceError, event_id: str | None = None) -> ErrorEvent:
    return ErrorEvent(error=error_body(error, event_id))
