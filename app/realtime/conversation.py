"""The conversation: its items in order, what was heard of them, and the prompts that they make."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engine import FRAME_MILLISECONDS, Codes, SpeechSegment

from ..errors import Unprocessable
from .items import AnyItem, FunctionCallItem, FunctionCallOutputItem, MessageItem
from .server_events import new_id

MAX_ITEMS = 500  # older ones are forgotten
MAX_SPEECH_FRAMES = 500  # 40 s: about what fits in CSM's context beside a voice and a clause
_FRAMES_PER_CHARACTER = 1000 / FRAME_MILLISECONDS / 15  # of speech at 15 characters a second


@dataclass(eq=False)
class SpokenClause:
    """A clause of the assistant's. text: as the model wrote it; spoken: as the engine got it.

    frames: of 80 ms. codes: (frames, codebooks), pieces in order; (frames, 0) from an engine without codes.
    """

    text: str
    spoken: str
    codes: list[Codes] = field(default_factory=list)
    complete: bool = False

    @property
    def frames(self) -> int:
        return sum(map(len, self.codes))

    def words_within(self, frames: int) -> str:
        """As many of its words as fit into its first frames; of one that was cut off the whole length is estimated."""
        whole = self.frames if self.complete else max(self.frames, len(self.spoken) * _FRAMES_PER_CHARACTER)
        words = self.text.split()
        return " ".join(words[: int(min(frames / whole, 1.0) * len(words))]) if whole else ""


@dataclass(eq=False)
class Entry:
    """An item with its sound.

    transcript: the words of the user's audio, once they are known. codes: the user's audio, encoded, if it is.
    clauses: of the assistant. heard_frames: how much of them the user has heard; None: all.
    speed: of the assistant's speech. seconds: of the user's audio.
    """

    item: AnyItem
    transcript: asyncio.Future[str] | None = None
    seconds: float = 0.0
    codes: asyncio.Future[Codes | None] | None = None
    clauses: list[SpokenClause] = field(default_factory=list)
    heard_frames: int | None = None
    speed: float = 1.0

    def truncate(self, milliseconds: float) -> None:
        """Forget what the user did not hear: what comes after so much of the audio."""
        self.heard_frames = math.floor(milliseconds * self.speed / FRAME_MILLISECONDS)
        if isinstance(self.item, MessageItem) and self.item.content:
            self.item.content[0].transcript = self.heard_text
            self.item.status = "incomplete"

    @property
    def milliseconds(self) -> float:
        """Length of the audio."""
        return sum(clause.frames for clause in self.clauses) * FRAME_MILLISECONDS / self.speed

    @property
    def heard_text(self) -> str:
        """The clauses that were heard, and of one that was heard in part as many words as fit into its part."""
        if self.heard_frames is None:
            return "".join(clause.text for clause in self.clauses)
        left, heard = self.heard_frames, ""
        for clause in self.clauses:
            if clause.complete and clause.frames <= left:
                heard += clause.text
                left -= clause.frames
                continue
            return f"{heard.rstrip()} {clause.words_within(left)}".strip()
        return heard.strip()

    def heard_segments(self, speaker: int) -> Iterator[SpeechSegment]:
        """The clauses that were heard completely: only there do text and codes belong together."""
        left = math.inf if self.heard_frames is None else self.heard_frames
        for clause in self.clauses:
            left -= clause.frames
            if left < 0 or not clause.complete:
                return
            codes = np.concatenate(clause.codes) if clause.codes else np.zeros((0, 0), np.int64)
            if codes.size:
                yield SpeechSegment(clause.spoken, codes, speaker)


class Conversation:
    """Items, oldest first. Their number is bounded: the oldest go first."""

    def __init__(self) -> None:
        self.id = new_id("conv")
        self._entries: list[Entry] = []

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries)

    def add(self, entry: Entry, after: str | None = None) -> str | None:
        """Add an item at the end, after another one, or at the start ("root"). Returns the id of the one before it.

        Raises Unprocessable if its id is taken or the other item does not exist.
        """
        if any(each.item.id == entry.item.id for each in self._entries):
            raise Unprocessable(f"item id {entry.item.id!r} is taken: choose another", code="item_id_taken")
        at = len(self._entries)
        if after == "root":
            at = 0
        elif after is not None:
            at = self._entries.index(self.find(after)) + 1
        self._entries.insert(at, entry)
        if len(self._entries) > MAX_ITEMS:
            del self._entries[0]
            at -= 1
        return self._entries[at - 1].item.id if at > 0 else None

    def find(self, item_id: str) -> Entry:
        """Raises Unprocessable if there is no such item."""
        for entry in self._entries:
            if entry.item.id == item_id:
                return entry
        raise Unprocessable(
            f"item {item_id[:64]!r} does not exist: it was deleted, or belongs to another session",
            code="item_not_found",
        )

    def delete(self, item_id: str) -> None:
        self._entries.remove(self.find(item_id))

    def previous_id(self, item_id: str) -> str | None:
        before = None
        for entry in self._entries:
            if entry.item.id == item_id:
                return before
            before = entry.item.id
        return None


def chat_messages(instructions: str, entries: list[Entry]) -> list[dict[str, Any]]:
    """The messages for the language model: what was said and heard, function calls and their outputs."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": instructions}] if instructions else []
    for entry in entries:
        item = entry.item
        if isinstance(item, FunctionCallItem):
            call = {
                "id": item.call_id,
                "type": "function",
                "function": {"name": item.name, "arguments": item.arguments},
            }
            if messages and messages[-1]["role"] == "assistant":  # calls of one answer belong into one message
                messages[-1].setdefault("tool_calls", []).append(call)
            else:
                messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
        elif isinstance(item, FunctionCallOutputItem):
            messages.append({"role": "tool", "tool_call_id": item.call_id, "content": item.output})
        elif content := _content(item):
            messages.append({"role": item.role, "content": content})
    return messages


def _content(item: MessageItem) -> str | list[dict[str, Any]]:
    images = [part for part in item.content if part.type == "input_image" and part.image_url]
    if not images:
        return item.words.strip()
    text = [{"type": "text", "text": item.words}] if item.words else []
    return [*text, *({"type": "image_url", "image_url": {"url": part.image_url}} for part in images)]


def speech_history(entries: list[Entry], assistant: int, user: int, with_user_audio: bool) -> list[SpeechSegment]:
    """What was said, as context for CSM: the newest MAX_SPEECH_FRAMES, oldest first.

    assistant, user: their speaker ids. with_user_audio: whether the user's turns are part of it.
    """
    segments: list[SpeechSegment] = []
    frames = 0
    for entry in reversed(entries):
        said = list(_segments(entry, assistant, user, with_user_audio))
        frames += sum(len(each.codes) for each in said)
        if frames > MAX_SPEECH_FRAMES:
            break
        segments[:0] = said
    return segments


def _segments(entry: Entry, assistant: int, user: int, with_user_audio: bool) -> Iterator[SpeechSegment]:
    if entry.clauses:
        yield from entry.heard_segments(assistant)
        return
    encoded, item = entry.codes, entry.item
    if not with_user_audio or encoded is None or not encoded.done() or not isinstance(item, MessageItem):
        return
    codes = None if encoded.cancelled() or encoded.exception() else encoded.result()
    if codes is not None and codes.size and item.words:
        yield SpeechSegment(item.words, codes, user)
