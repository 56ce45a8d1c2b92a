"""The output of one response: its message and function calls, and the events that tell of them."""

from __future__ import annotations

from typing import Any, Literal

from ..llm.language_model import ToolCallDelta
from . import server_events as events
from .conversation import Conversation, Entry
from .items import ContentPart, FunctionCallItem, MessageItem, item_json
from .server_events import Send, new_id


class ResponseOutput:
    """Adds to the output items of a response, and sends an event for each change.

    conversation: the items become part of it; None for a response outside of the conversation.
    speed: of the audio that is sent.
    """

    def __init__(self, response_id: str, conversation: Conversation | None, send: Send, speed: float) -> None:
        self.message: Entry | None = None  # once there is one
        self._response_id, self._conversation, self._send, self._speed = response_id, conversation, send, speed
        self._entries: list[Entry] = []
        self._calls: dict[int, Entry] = {}  # by their index in the language model's answer

    def to_json(self) -> list[dict[str, Any]]:
        return [item_json(entry.item) for entry in self._entries]

    # ---- the message

    async def begin_message(self, kind: Literal["output_text", "output_audio"]) -> Entry:
        """The response's message, begun with its first words."""
        if self.message is None:
            part = ContentPart(type=kind)
            item = MessageItem(id=new_id("item"), role="assistant", status="in_progress", content=[])
            self.message = Entry(item, speed=self._speed)
            await self._begin_item(self.message)
            item.content.append(part)
            await self._send(
                events.ContentPartEvent(
                    type="response.content_part.added", **self._place(self.message), part=_part_json(part)
                )
            )
        return self.message

    async def add_text(self, text: str) -> None:
        entry = await self.begin_message("output_text")
        part = _part(entry)
        part.text = (part.text or "") + text
        await self._send(events.OutputDelta(type="response.output_text.delta", **self._place(entry), delta=text))

    async def add_transcript(self, entry: Entry, text: str) -> None:
        part = _part(entry)
        part.transcript = (part.transcript or "") + text
        await self._send(
            events.OutputDelta(type="response.output_audio_transcript.delta", **self._place(entry), delta=text)
        )

    async def add_audio(self, entry: Entry, audio: str) -> None:
        """audio: base64, in the format of the session's output."""
        await self._send(events.OutputDelta(type="response.output_audio.delta", **self._place(entry), delta=audio))

    # ---- function calls

    async def add_to_call(self, piece: ToolCallDelta) -> None:
        entry = self._calls.get(piece.index)
        if entry is None:
            call_id = piece.call_id or new_id("call")
            item = FunctionCallItem(id=new_id("item"), call_id=call_id, name=piece.name, status="in_progress")
            entry = self._calls[piece.index] = Entry(item)
            await self._begin_item(entry)
        call = _call(entry)
        if piece.arguments:
            call.arguments += piece.arguments
            await self._send(events.ArgumentsDelta(**self._place(entry), call_id=call.call_id, delta=piece.arguments))

    async def end_calls(self) -> None:
        """The language model has written all of them to their end."""
        for entry in self._calls.values():
            call = _call(entry)
            call.status = "completed"
            await self._send(
                events.ArgumentsDone(
                    **self._place(entry), call_id=call.call_id, name=call.name, arguments=call.arguments
                )
            )

    # ---- items

    async def end(self, *, completed: bool) -> None:
        """End all items, as complete as they are."""
        for entry in self._entries:
            item = entry.item
            if item.status == "in_progress":
                item.status = "completed" if completed else "incomplete"
            if isinstance(item, MessageItem):
                await self._end_message(entry)
            if self._conversation is not None:
                await self._send(
                    events.ItemEvent(
                        type="conversation.item.done",
                        previous_item_id=self._conversation.previous_id(item.id),
                        item=item_json(item),
                    )
                )
            await self._send_item("response.output_item.done", entry)

    async def _begin_item(self, entry: Entry) -> None:
        self._entries.append(entry)
        await self._send_item("response.output_item.added", entry)
        if self._conversation is not None:
            before = self._conversation.add(entry)
            await self._send(
                events.ItemEvent(type="conversation.item.added", previous_item_id=before, item=item_json(entry.item))
            )

    async def _send_item(
        self, kind: Literal["response.output_item.added", "response.output_item.done"], entry: Entry
    ) -> None:
        index = self._entries.index(entry)
        await self._send(
            events.OutputItem(type=kind, response_id=self._response_id, output_index=index, item=item_json(entry.item))
        )

    async def _end_message(self, entry: Entry) -> None:
        part, place = _part(entry), self._place(entry)
        if part.type == "output_audio":
            await self._send(events.AudioDone(**place))
            await self._send(events.TranscriptDone(**place, transcript=part.transcript or ""))
        else:
            await self._send(events.TextDone(**place, text=part.text or ""))
        await self._send(events.ContentPartEvent(type="response.content_part.done", **place, part=_part_json(part)))

    def _place(self, entry: Entry) -> dict[str, Any]:
        index = self._entries.index(entry)
        return {"response_id": self._response_id, "item_id": entry.item.id, "output_index": index}


def _call(entry: Entry) -> FunctionCallItem:
    assert isinstance(entry.item, FunctionCallItem)
    return entry.item


def _part(entry: Entry) -> ContentPart:
    assert isinstance(entry.item, MessageItem)
    return entry.item.content[0]


def _part_json(part: ContentPart) -> dict[str, Any]:
    """A part as the events of content parts have it, under the names without `output_`."""
    if part.type == "output_audio":
        return {"type": "audio", "transcript": part.transcript or ""}
    return {"type": "text", "text": part.text or ""}
