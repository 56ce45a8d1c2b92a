"""Events that a conversation receives, as typed dataclasses. No network I/O."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from .errors import ConversationError, UnexpectedAnswer

if TYPE_CHECKING:
    from typing import Self


@dataclass(frozen=True)
class ConversationEvent:
    """Any event. Those that have no class of their own are instances of this one.

    type: its name in the Realtime protocol (docs/conversation.md). body: the whole event.
    """

    type: str
    body: Mapping[str, Any] = field(repr=False)

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Self:
        """Raises KeyError or ValueError if the body lacks a field or has an invalid one."""
        return cls(body=body, **{each.name: body[each.name] for each in fields(cls) if each.name != "body"})


@dataclass(frozen=True)
class SessionChanged(ConversationEvent):
    """The settings that apply from now on: the `session` object of the protocol."""

    session: Mapping[str, Any]


@dataclass(frozen=True)
class SpeechStarted(ConversationEvent):
    """The user speaks. What is still being played should stop."""

    item_id: str
    audio_start_ms: int  # of the audio sent so far


@dataclass(frozen=True)
class SpeechStopped(ConversationEvent):
    item_id: str
    audio_end_ms: int


@dataclass(frozen=True)
class AudioCommitted(ConversationEvent):
    """The user's audio has become an item."""

    item_id: str


@dataclass(frozen=True)
class ItemAdded(ConversationEvent):
    item: Mapping[str, Any]


@dataclass(frozen=True)
class ItemTruncated(ConversationEvent):
    item_id: str
    audio_end_ms: int


@dataclass(frozen=True)
class UserTranscript(ConversationEvent):
    """What the user said, whole. Empty if no words were recognised."""

    item_id: str
    transcript: str


@dataclass(frozen=True)
class TranscriptionFailed(ConversationEvent):
    item_id: str
    error: ConversationError

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Self:
        return cls(body["type"], body, body["item_id"], error_of_body(body["error"]))


@dataclass(frozen=True)
class ResponseCreated(ConversationEvent):
    response_id: str

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Self:
        return cls(body["type"], body, body["response"]["id"])


@dataclass(frozen=True)
class AudioDelta(ConversationEvent):
    """Speech in the conversation's format, by default 16-bit little-endian PCM, mono, 24 kHz."""

    response_id: str
    item_id: str
    audio: bytes = field(repr=False)

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Self:
        audio = base64.b64decode(body["delta"], validate=True)
        return cls(body["type"], body, body["response_id"], body["item_id"], audio)


@dataclass(frozen=True)
class TranscriptDelta(ConversationEvent):
    """Words of the assistant, with the first audio of their clause."""

    response_id: str
    item_id: str
    delta: str


@dataclass(frozen=True)
class TextDelta(ConversationEvent):
    """Words of a response that is not spoken."""

    response_id: str
    item_id: str
    delta: str


@dataclass(frozen=True)
class FunctionCall(ConversationEvent):
    """A function that the language model calls. Answer with `send_function_output`. arguments: JSON."""

    call_id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class ResponseDone(ConversationEvent):
    """The response has ended, as the last event of it.

    status: completed, cancelled, failed or incomplete. text: the words, of an interrupted response those heard.
    error: why it failed. metadata: latencies in milliseconds, as text (docs/conversation.md).
    """

    response_id: str
    status: str
    text: str
    error: ConversationError | None
    metadata: Mapping[str, str]

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Self:
        response = body["response"]
        parts = [part for item in response["output"] for part in item.get("content", ())]
        text = " ".join(filter(None, (part.get("transcript") or part.get("text") for part in parts)))
        error = (response["status_details"] or {}).get("error")
        return cls(
            body["type"],
            body,
            response["id"],
            response["status"],
            text,
            None if error is None else error_of_body(error),
            response["metadata"] or {},
        )


@dataclass(frozen=True)
class ErrorReceived(ConversationEvent):
    """What was sent cannot be carried out. `raise event.error` makes it an exception."""

    error: ConversationError

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Self:
        return cls(body["type"], body, error_of_body(body["error"]))


_CLASS_OF_TYPE: dict[str, type[ConversationEvent]] = {
    "session.created": SessionChanged,
    "session.updated": SessionChanged,
    "input_audio_buffer.speech_started": SpeechStarted,
    "input_audio_buffer.speech_stopped": SpeechStopped,
    "input_audio_buffer.committed": AudioCommitted,
    "conversation.item.added": ItemAdded,
    "conversation.item.truncated": ItemTruncated,
    "conversation.item.input_audio_transcription.completed": UserTranscript,
    "conversation.item.input_audio_transcription.failed": TranscriptionFailed,
    "response.created": ResponseCreated,
    "response.output_audio.delta": AudioDelta,
    "response.output_audio_transcript.delta": TranscriptDelta,
    "response.output_text.delta": TextDelta,
    "response.function_call_arguments.done": FunctionCall,
    "response.done": ResponseDone,
    "error": ErrorReceived,
}


def read_event(message: str | bytes) -> ConversationEvent:
    """Parse a message. Raises UnexpectedAnswer if it is no event."""
    try:
        body = json.loads(message)
        return _CLASS_OF_TYPE.get(body["type"], ConversationEvent).read(body)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnexpectedAnswer(
            f"the service sent a message that is no event of the Realtime protocol ({type(error).__name__}: {error})"
        ) from None


def error_of_body(body: Mapping[str, Any]) -> ConversationError:
    return ConversationError(body["message"], code=body["code"], event_id=body.get("event_id"))
