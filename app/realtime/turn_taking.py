"""Whose turn it is: decides when the user's turn is over, when the assistant answers, and when it falls silent."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from engine import VoicePrompt

from ..errors import BadRequest, Conflict, ServiceError, Unprocessable
from ..middleware.error_handlers import describe_all
from ..observability.request_log import RequestRecord
from ..schemas.speech import SpeechParameters
from . import client_events as client
from . import server_events as events
from .audio_codec import AudioDecoder, Pcm
from .config import SessionConfig
from .conversation import Conversation, Entry
from .conversation_tasks import ConversationTasks
from .echo_guard import EchoGuard
from .input_audio import InputAudio
from .items import ContentPart, Item, MessageItem, item_json
from .latency import TurnLatency
from .listener import Listener
from .response import Response
from .response_plan import ResponsePlan
from .server_events import Send, new_id
from .service import RealtimeService
from .session_voice import SessionVoice, SessionVoices
from .turn_detector import TurnEvent

_log = logging.getLogger(__name__)

MIN_COMMIT_MS = 100  # as in the protocol
_ITEMS: TypeAdapter[Any] = TypeAdapter(list[Item])


class TurnTaking:
    """One conversation. `handle` takes its client's events one after the other; one response at a time is spoken.

    send: sends an event to the client. new_record: makes the log record of the next response.
    """

    def __init__(self, service: RealtimeService, send: Send, new_record: Callable[[], RequestRecord]) -> None:
        self.config = SessionConfig(instructions=service.instructions)
        self.conversation = Conversation()
        self._service, self._send, self._new_record = service, send, new_record
        self._voices = SessionVoices(service.state.voices, service.state.references)
        self._voice = SessionVoice()  # that config names
        self._echo = EchoGuard()
        self._input = InputAudio(self._echo)
        self._turn_item = ""  # id of the item that the user's current turn becomes
        self._response: Response | None = None  # the newest
        self._tasks = ConversationTasks()
        self._listener = Listener(service, send, self._tasks)

    @property
    def responding(self) -> bool:
        return self._response is not None and self._response.active

    async def start(self) -> None:
        """Greet the client. Raises ServiceError if the default voice cannot be used."""
        await self._apply(self.config)
        await self._send(events.SessionEvent(type="session.created", session=self.session_json()))

    async def close(self) -> None:
        """End everything that runs."""
        if self._response is not None:
            await self._response.close()
        await self._tasks.close()

    async def drain(self) -> None:
        """Wait until the current response has ended."""
        if self._response is not None:
            await self._response.wait()

    def session_json(self) -> dict[str, Any]:
        body = self.config.model_dump()
        transcription = body["audio"]["input"]["transcription"]
        if transcription is not None:  # clients take its model for a string
            transcription["model"] = transcription["model"] or self._service.transcriber.name
        return {
            "id": self.conversation.id.replace("conv", "sess"),
            "object": "realtime.session",
            "model": self._service.model,
            **body,
            "csm": self._service.describe(),
        }

    async def handle(self, event: client.ClientEvent) -> None:
        """Raises ServiceError if the event cannot be carried out; the conversation goes on."""
        match event:
            case client.AudioAppend():
                for turn_event in await self._input.append(event.audio):
                    await self._on_turn_event(turn_event)
            case client.SessionUpdate():
                changes, reference = await self._voices.take_reference(event.session)
                await self._apply(self.config.updated(changes), reference)
                await self._send(events.SessionEvent(type="session.updated", session=self.session_json()))
            case client.AudioCommit():
                await self._commit_by_client()
            case client.AudioClear():
                self._input.clear()
                self._listener.drop_speculation()
                await self._send(events.Cleared())
            case client.ItemCreate():
                await self._create_item(event)
            case client.ItemTruncate():
                await self._truncate(event)
            case client.ItemDelete():
                self.conversation.delete(event.item_id)
                await self._send(events.ItemDeleted(item_id=event.item_id))
            case client.ItemRetrieve():
                item = self.conversation.find(event.item_id).item
                await self._send(events.ItemRetrieved(item=item_json(item)))
            case client.ResponseCreate():
                await self._respond(TurnLatency(time.monotonic()), event.response)
            case client.ResponseCancel():
                self._cancel_by_client(event.response_id)

    async def _apply(self, config: SessionConfig, reference: VoicePrompt | None = None) -> None:
        """reference: the recording of the voice. Raises UnknownVoice; ComponentFailed if turns cannot be detected."""
        voice = await self._voices.find(config.audio.output.voice_name, reference or self._voice.prompt)
        vad = await self._service.load_vad() if config.detects_turns else None
        smart_turn = await self._service.load_smart_turn() if config.judges_turns else None
        self.config, self._voice = config, voice
        self._listener.transcription = config.audio.input.transcription
        detection = config.vad(judged=smart_turn is not None)
        self._input.configure(config.audio.input.format, detection, vad, smart_turn)

    # ---- the user's turn

    async def _on_turn_event(self, event: TurnEvent) -> None:
        detection = self._input.detection
        assert detection is not None
        if event.kind == "started":
            start = max(event.at_ms - detection.prefix_padding_ms, 0)
            self._input.drop_before(start)
            self._turn_item = new_id("item")
            if detection.interrupt_response:
                self._interrupt()
            await self._send(events.SpeechStarted(audio_start_ms=start, item_id=self._turn_item))
        elif event.kind == "paused":
            self._listener.speculate(self._input.peek())
        elif event.kind == "resumed":
            self._listener.drop_speculation()
        else:
            latency = TurnLatency(time.monotonic())
            silence = min(event.silence_ms, detection.silence_duration_ms)  # windows may be a little longer
            latency.speech_ended = latency.turn_ended - silence / 1000
            await self._send(events.SpeechStopped(audio_end_ms=event.at_ms, item_id=self._turn_item))
            entry = await self._add_turn(self._input.take(event.at_ms), self._turn_item)
            if not detection.create_response:
                return
            if self.responding:  # it is still falling silent, or was not to be interrupted
                assert self._response is not None
                self._tasks.start(self._answer_afterwards(self._response, entry, latency))
            else:
                await self._respond(latency, turn=entry)

    async def _answer_afterwards(self, response: Response, turn: Entry, latency: TurnLatency) -> None:
        await response.wait()
        if not self.responding:  # else the client or a later turn was faster
            await self._respond(latency, turn=turn)

    async def _commit_by_client(self) -> None:
        if self._input.buffered_ms < MIN_COMMIT_MS:
            raise Unprocessable(
                f"the buffer holds {self._input.buffered_ms} ms of audio, and a turn has at least {MIN_COMMIT_MS} ms: "
                "append audio first",
                code="input_audio_buffer_commit_empty",
            )
        item_id = self._turn_item if self._input.in_turn else new_id("item")
        self._listener.drop_speculation()
        await self._add_turn(self._input.take(), item_id)

    async def _add_turn(self, pcm: Pcm, item_id: str) -> Entry:
        """Make an item of the user's audio; recognition and encoding go on beside what follows."""
        item = MessageItem(id=item_id, role="user", content=[ContentPart(type="input_audio")])
        entry = Entry(item)
        self._listener.listen(entry, pcm, speculated=True)
        before = self.conversation.add(entry)
        await self._send(events.Committed(previous_item_id=before, item_id=item_id))
        await self._announce(item, before)
        return entry

    # ---- the assistant's turn

    async def _respond(
        self, latency: TurnLatency, parameters: client.ResponseParameters | None = None, turn: Entry | None = None
    ) -> None:
        asked = parameters or client.ResponseParameters()
        changes, reference = await self._voices.take_reference(asked.model_extra or {})
        config, voice = self.config.for_response(changes), self._voice
        name = config.audio.output.voice_name
        if reference is not None or name != self.config.audio.output.voice_name:
            voice = await self._voices.find(name, reference or voice.prompt)
        while self._response is not None and not self._response.ended:
            if self._response.active:
                raise Conflict(
                    f"response {self._response.id} is in progress: wait for its response.done, or cancel it",
                    code="conversation_already_has_active_response",
                )
            await self._response.wait()  # its last events come before those of the next
        # Nothing is awaited from here on: another task could start a response meanwhile.
        settings = self._service.state.settings
        job = SpeechParameters.model_construct(text="a", voice_id=voice.voice_id).to_job(settings)
        # Each clause has those before it as context. Fading it into the next would need both at once.
        request = replace(job.request, crossfade_milliseconds=0, overlap="full", voice=voice.prompt)
        job = replace(job, request=request)
        plan = ResponsePlan(
            config=config,
            job=job,
            entries=list(self.conversation) if asked.input is None else self._items(asked.input),
            latency=latency,
            assistant=voice.speaker,
            user=1 if voice.speaker == 0 else 0,
            turn=turn,
            in_conversation=asked.conversation != "none",
            metadata=asked.metadata or {},
        )
        response = Response(self._service, self.conversation, self._send, plan, self._new_record())
        response.audio.on_audio = self._echo.played
        self._response = response
        response.start()

    def _items(self, bodies: list[dict[str, Any]]) -> list[Entry]:
        """Entries of items that a response is to answer; references are looked up. Raises Unprocessable."""
        entries = []
        for body in bodies:
            if body.get("type") == "item_reference":
                entries.append(self.conversation.find(str(body.get("id"))))
                continue
            try:
                [item] = _ITEMS.validate_python([body])
            except ValidationError as error:
                raise Unprocessable(describe_all(error), code="invalid_value") from None
            entries.append(Entry(item))
        return entries

    def _interrupt(self) -> None:
        """The user speaks: fall silent, and remember only what was heard."""
        response = self._response
        if response is None:
            return
        now = time.monotonic()
        if response.active or response.audio.playback.playing(now):
            if response.entry is not None and response.plan.config.speaks:
                response.entry.truncate(1000 * response.audio.playback.heard_seconds(now))
                self._service.state.metrics.interrupted()
            response.cancel("turn_detected")
            response.audio.playback.stop(now)
            self._echo.stopped()

    def _cancel_by_client(self, response_id: str | None) -> None:
        response = self._response
        if response is None or not response.active or response_id not in (None, response.id):
            raise BadRequest(
                "no response is in progress: there is nothing to cancel", code="response_cancel_not_active"
            )
        response.cancel("client_cancelled")

    # ---- items

    async def _create_item(self, event: client.ItemCreate) -> None:
        item = event.item
        item.id = item.id or new_id("item")
        entry = Entry(item)
        before = self.conversation.add(entry, event.previous_item_id)
        if isinstance(item, MessageItem):
            try:
                self._take_audio(entry, item)
            except ServiceError:
                self.conversation.delete(item.id)
                raise
        await self._announce(item, before)

    async def _announce(self, item: Item, before: str | None) -> None:
        """Tell of a new item that is complete."""
        for event in ("conversation.item.added", "conversation.item.done"):
            await self._send(events.ItemEvent(type=event, previous_item_id=before, item=item_json(item)))

    def _take_audio(self, entry: Entry, item: MessageItem) -> None:
        """Listen to audio that came with an item. Raises Unprocessable if it is invalid."""
        for part in item.content:
            if part.type == "input_audio" and part.audio:
                pcm = AudioDecoder(self.config.audio.input.format).decode(part.audio)
                part.audio = None
                if not part.transcript:
                    self._listener.listen(entry, pcm)

    async def _truncate(self, event: client.ItemTruncate) -> None:
        entry = self.conversation.find(event.item_id)
        if not isinstance(entry.item, MessageItem) or entry.item.role != "assistant" or not entry.clauses:
            raise Unprocessable(
                f"item {event.item_id[:64]!r} has no audio of the assistant: only such can be truncated",
                code="invalid_value",
            )
        if self._response is not None and self._response.entry is entry:
            self._response.audio.playback.stop(time.monotonic())
            self._echo.stopped()
        heard = min(event.audio_end_ms, round(entry.milliseconds))  # clients' clocks may run ahead of the audio
        entry.truncate(heard)
        await self._send(
            events.ItemTruncated(item_id=event.item_id, content_index=event.content_index, audio_end_ms=heard)
        )
