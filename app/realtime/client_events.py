"""Events that a client sends, as typed models, and their parsing."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from ..errors import BadRequest, Unprocessable
from ..middleware.error_handlers import describe_all
from .items import Item


class _Event(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    event_id: str | None = Field(default=None, max_length=512)


class SessionUpdate(_Event):
    type: Literal["session.update"]
    session: dict[str, Any]


class AudioAppend(_Event):
    """audio: base64, in the format of the session's input."""

    type: Literal["input_audio_buffer.append"]
    audio: str


class AudioCommit(_Event):
    type: Literal["input_audio_buffer.commit"]


class AudioClear(_Event):
    type: Literal["input_audio_buffer.clear"]


class ItemCreate(_Event):
    """previous_item_id: where to insert it: "root" is the start, none is the end."""

    type: Literal["conversation.item.create"]
    item: Item
    previous_item_id: str | None = None


class ItemTruncate(_Event):
    """audio_end_ms: how much of the item's audio was heard."""

    type: Literal["conversation.item.truncate"]
    item_id: str
    content_index: int = 0
    audio_end_ms: int = Field(ge=0)


class ItemDelete(_Event):
    type: Literal["conversation.item.delete"]
    item_id: str


class ItemRetrieve(_Event):
    type: Literal["conversation.item.retrieve"]
    item_id: str


class ResponseParameters(BaseModel):
    """Beside these, any field of the session that a response may replace.

    conversation: "none" leaves the response out of the conversation. input: the items to answer instead of it.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    conversation: Literal["auto", "none"] | None = None
    input: list[dict[str, Any]] | None = None
    metadata: dict[str, str] | None = Field(default=None, max_length=16)


class ResponseCreate(_Event):
    type: Literal["response.create"]
    response: ResponseParameters | None = None


class ResponseCancel(_Event):
    type: Literal["response.cancel"]
    response_id: str | None = None


ClientEvent = (
    SessionUpdate
    | AudioAppend
    | AudioCommit
    | AudioClear
    | ItemCreate
    | ItemTruncate
    | ItemDelete
    | ItemRetrieve
    | ResponseCreate
    | ResponseCancel
)
_ADAPTER: TypeAdapter[ClientEvent] = TypeAdapter(Annotated[ClientEvent, Field(discriminator="type")])


def parse_event(message: str) -> ClientEvent:
    """Parse a message. Raises BadRequest if it is no JSON object, Unprocessable if it is no valid event."""
    try:
        body = json.loads(message)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the message is not JSON ({error})", code="invalid_json") from None
    if not isinstance(body, dict):
        raise BadRequest('the message must be a JSON object such as {"type": "response.create"}', code="invalid_json")
    try:
        return _ADAPTER.validate_python(body)
    except ValidationError as error:
        code = "invalid_value"
        if any(each["type"].startswith("union_tag") and not each["loc"] for each in error.errors()):
            code = "unknown_event"
        raise Unprocessable(describe_all(error), code=code) from None


def event_id_of(message: str) -> str | None:
    """The event id of a message that may be invalid."""
    try:
        body = json.loads(message)
    except (ValueError, RecursionError):
        return None
    found = body.get("event_id") if isinstance(body, dict) else None
    return found[:512] if isinstance(found, str) else None
