"""Items of a conversation, as clients send and receive them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Status = Literal["in_progress", "completed", "incomplete"]


class _Item(BaseModel):
    model_config = ConfigDict(extra="ignore")

    id: str = Field(default="", max_length=64)
    object: Literal["realtime.item"] = "realtime.item"
    status: Status = "completed"


class ContentPart(BaseModel):
    """A part of a message. audio: base64, in the format of the session's input; never sent back."""

    model_config = ConfigDict(extra="ignore")

    type: Literal["input_text", "input_audio", "input_image", "output_text", "output_audio", "text", "audio"]
    text: str | None = None
    audio: str | None = None
    transcript: str | None = None
    image_url: str | None = None
    detail: str | None = None

    @property
    def words(self) -> str:
        return self.text or self.transcript or ""


class MessageItem(_Item):
    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system"]
    content: list[ContentPart] = Field(default=[], max_length=100)

    @property
    def words(self) -> str:
        """Text and transcripts of all parts."""
        return " ".join(filter(None, (part.words for part in self.content)))


class FunctionCallItem(_Item):
    """A call that the client carries out."""

    type: Literal["function_call"] = "function_call"
    call_id: str
    name: str
    arguments: str = ""


class FunctionCallOutputItem(_Item):
    type: Literal["function_call_output"] = "function_call_output"
    call_id: str
    output: str


Item = Annotated[MessageItem | FunctionCallItem | FunctionCallOutputItem, Field(discriminator="type")]
AnyItem = MessageItem | FunctionCallItem | FunctionCallOutputItem


def item_json(item: AnyItem) -> dict[str, Any]:
    """An item as it is sent: without audio, which the client has already."""
    body = item.model_dump(exclude_none=True)
    for part in body.get("content", ()):
        part.pop("audio", None)
    if isinstance(item, MessageItem):
        for part, sent in zip(item.content, body["content"], strict=True):
            if part.type == "input_audio":
                sent["transcript"] = part.transcript  # null until it is known
    return body
