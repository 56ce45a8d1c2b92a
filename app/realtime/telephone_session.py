"""One telephone call over Twilio's Media Streams: its messages in and out of a conversation.

The messages are those of twilio.com/docs/voice/media-streams/websocket-messages: JSON, with audio as base64 of µ-law at
8 kHz.
"""

from __future__ import annotations

import json
import logging
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel
from starlette.websockets import WebSocket

from ..errors import BadRequest, ServiceError, Unavailable, Unprocessable
from ..middleware.error_handlers import describe_all
from ..websocket.connection import POLICY_VIOLATION, WebSocketConnection
from . import client_events as client
from . import server_events as events
from .service import RealtimeService
from .turn_taking import TurnTaking

_log = logging.getLogger(__name__)


class _Message(BaseModel):
    """In Twilio's spelling. Fields that nothing here uses are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True, alias_generator=to_camel)


class MediaFormat(_Message):
    encoding: Literal["audio/x-mulaw"]
    sample_rate: Literal[8000]
    channels: Literal[1]


class CallParameters(_Message):
    """The `<Parameter>` elements of the call's TwiML."""

    voice: str | None = Field(default=None, min_length=1, max_length=128)
    instructions: str | None = Field(default=None, max_length=10_000)
    language: str | None = Field(default=None, max_length=20)


class Start(_Message):
    media_format: MediaFormat
    custom_parameters: CallParameters = CallParameters()


class StartMessage(_Message):
    event: Literal["start"]
    stream_sid: str = Field(min_length=1, max_length=200)
    start: Start


class Media(_Message):
    payload: str
    track: str = "inbound"


class MediaMessage(_Message):
    event: Literal["media"]
    media: Media


class Mark(_Message):
    name: str


class MarkMessage(_Message):
    """The caller has heard what was sent before the mark, or it was cleared."""

    event: Literal["mark"]
    mark: Mark


class StopMessage(_Message):
    event: Literal["stop"]


class OtherMessage(_Message):
    event: Literal["connected", "dtmf"]


Message = StartMessage | MediaMessage | MarkMessage | StopMessage | OtherMessage
_ADAPTER: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="event")])


class TelephoneSession:
    """Runs until the call ends, or the service shuts down. A message that is wrong ends the call."""

    def __init__(self, websocket: WebSocket, service: RealtimeService) -> None:
        self._service = service
        self._connection = WebSocketConnection(websocket, is_busy=lambda: self._turns.responding)
        self._turns = TurnTaking(service, self._send, self._connection.record.next_part)
        self._stream_sid: str | None = None  # None before the start message
        self._last_mark: str | None = None  # after the newest audio; None while there is audio without one
        self._unheard = False  # whether the caller may still hear audio that was sent
        self._answering = ""  # id of the response whose audio was sent last
        self._silenced = ""  # id of one that the caller interrupted

    async def run(self) -> None:
        """Accept the connection and serve the call until it ends."""
        await self._connection.run(self._receive_messages, self._drain, clean_up=self._turns.close)

    async def _receive_messages(self) -> None:
        idle_seconds = self._service.state.settings.websocket_idle_seconds
        try:
            while (message := await self._connection.receive(idle_seconds)) is not None:
                parsed = _parse(message.get("text"))
                if isinstance(parsed, StopMessage):
                    return
                await self._handle(parsed)
        except ServiceError as error:
            _log.warning("call %s ends: %s", self._connection.record.request_id, error.detail)
            self._connection.close_with(POLICY_VIOLATION, error.code)
            return
        self._connection.close_as_idle(idle_seconds)

    async def _handle(self, message: Message) -> None:
        """Raises ServiceError."""
        if isinstance(message, StartMessage):
            await self._start(message)
        elif isinstance(message, MediaMessage):
            if self._stream_sid is None:
                raise BadRequest("media came before the start message", code="not_started")
            if self._connection.shutting_down:
                raise Unavailable("the service is shutting down: call again soon", code="draining")
            if message.media.track == "inbound":
                append = client.AudioAppend(type="input_audio_buffer.append", audio=message.media.payload)
                await self._turns.handle(append)
        elif isinstance(message, MarkMessage) and message.mark.name == self._last_mark:
            self._unheard = False

    async def _start(self, message: StartMessage) -> None:
        if self._stream_sid is not None:
            raise BadRequest("the stream has started already", code="already_started")
        parameters = message.start.custom_parameters
        telephone = {"format": {"type": "audio/pcmu"}}
        session: dict[str, Any] = {
            "instructions": parameters.instructions,
            "audio": {
                "input": telephone | {"transcription": {"language": parameters.language}},
                "output": telephone | {"voice": parameters.voice},
            },
        }
        await self._turns.start()
        await self._turns.handle(client.SessionUpdate(type="session.update", session=session))
        self._stream_sid = message.stream_sid

    async def _drain(self) -> None:
        """On shutdown: let the current answer finish, then close."""
        await self._connection.wait_for_shutdown()
        await self._turns.drain()

    async def _send(self, event: events.ServerEvent) -> None:
        """Send what the caller is to hear of an event; the others are not for a telephone."""
        if isinstance(event, events.OutputDelta) and event.type == "response.output_audio.delta":
            if event.response_id != self._silenced:
                self._answering, self._unheard, self._last_mark = event.response_id, True, None
                await self._send_message("media", media={"payload": event.delta})
        elif isinstance(event, events.AudioDone) and event.response_id != self._silenced:
            self._last_mark = event.item_id
            await self._send_message("mark", mark={"name": event.item_id})
        elif isinstance(event, events.SpeechStarted) and self._unheard:
            # Twilio has a buffer of its own, which it would go on playing.
            self._silenced, self._unheard = self._answering, False
            await self._send_message("clear")
        elif isinstance(event, events.ErrorEvent | events.TranscriptionFailed):
            _log.warning("call %s: %s", self._connection.record.request_id, event.error.message)

    async def _send_message(self, kind: str, **fields: object) -> None:
        await self._connection.send(json.dumps({"event": kind, "streamSid": self._stream_sid, **fields}))


def _parse(text: str | None) -> Message:
    """Raises BadRequest if a message is no JSON, Unprocessable if it is none of Twilio's."""
    try:
        body = json.loads(text or "")
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the message is not JSON ({error})", code="invalid_json") from None
    try:
        return _ADAPTER.validate_python(body)
    except ValidationError as error:
        raise Unprocessable(describe_all(error), code="invalid_message") from None
