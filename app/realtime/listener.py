"""Finds out what the user's audio says: its words, and for CSM its codes."""

from __future__ import annotations

import asyncio
import logging

from engine import SAMPLE_RATE, Codes, VoicePrompt

from ..errors import ServiceError
from . import server_events as events
from .audio_codec import Pcm, to_float
from .config import InputTranscription
from .conversation import Entry
from .conversation_tasks import ConversationTasks
from .items import MessageItem
from .server_events import Send
from .service import RealtimeService

_log = logging.getLogger(__name__)


class Listener:
    """Listens to one user. Recognition and encoding are tasks of the conversation, so that it goes on meanwhile.

    transcription: what the client asked for; None if it does not want the words. The conversation needs them anyway.
    """

    def __init__(self, service: RealtimeService, send: Send, tasks: ConversationTasks) -> None:
        self.transcription: InputTranscription | None = None
        self._service, self._send, self._tasks = service, send, tasks
        self._speculation: asyncio.Task[str] | None = None  # recognition of a turn that may be over

    def speculate(self, pcm: Pcm) -> None:
        """Begin to recognise a turn that may be over."""
        self._speculation = self._tasks.start(self._transcribe(pcm))

    def drop_speculation(self) -> None:
        """The turn goes on, or is not to be answered."""
        if self._speculation is not None:
            self._speculation.cancel()
            self._speculation = None

    def listen(self, entry: Entry, pcm: Pcm, *, speculated: bool = False) -> None:
        """Give an entry the length of its audio, and its words and codes as they are found out.

        speculated: the words are those of the speculation, if there was one.
        """
        transcribing = None
        if speculated:
            transcribing, self._speculation = self._speculation, None
        entry.seconds = pcm.size / SAMPLE_RATE
        transcribing = transcribing or self._tasks.start(self._transcribe(pcm))
        entry.transcript = self._tasks.start(self._recognise(entry, transcribing))
        if self._service.state.settings.realtime_user_audio:
            entry.codes = self._tasks.start(self._encode(pcm))

    async def _transcribe(self, pcm: Pcm) -> str:
        options = self.transcription
        language, prompt = (None, None) if options is None else (options.language, options.prompt)
        return await self._service.transcriber.transcribe(to_float(pcm), language, prompt)

    async def _recognise(self, entry: Entry, transcribing: asyncio.Task[str]) -> str:
        """Wait for the words and send them. Raises ServiceError."""
        wanted, item_id = self.transcription is not None, entry.item.id
        assert isinstance(entry.item, MessageItem)
        try:
            words = await transcribing
        except ServiceError as error:
            if wanted:
                await self._send(events.TranscriptionFailed(item_id=item_id, error=events.error_body(error)))
            raise
        next(part for part in entry.item.content if part.type == "input_audio").transcript = words
        if wanted:
            if words:
                await self._send(events.TranscriptionDelta(item_id=item_id, delta=words))
            usage = {"type": "duration", "seconds": round(entry.seconds, 2)}
            await self._send(events.TranscriptionCompleted(item_id=item_id, transcript=words, usage=usage))
        return words

    async def _encode(self, pcm: Pcm) -> Codes | None:
        """The codes of the user's audio; None if the engine has none, or cannot take the audio."""
        try:
            return await self._service.state.pool.encode(VoicePrompt(to_float(pcm)))
        except ServiceError as error:
            _log.info("the user's audio is not part of the context: %s", error)
            return None
