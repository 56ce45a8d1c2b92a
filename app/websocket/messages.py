"""What comes in over a WebSocket, understood: text to say, or a word about what is being said."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from ..errors import BadRequest, Unprocessable
from ..middleware.error_handlers import describe
from ..schemas.speech import SpeechJob


@dataclass(frozen=True)
class SpeakCommand:
    """A text, or a piece of one.

    order: how to say it; its own text is not looked at.
    continues: more of the same text follows, so only its whole sentences can be said by now.
    binary: chunks are wanted as binary messages.
    key: of the watermark; None leaves the answer unmarked.
    """

    text: str
    job: SpeechJob
    continues: bool = False
    binary: bool = False
    key: bytes | None = None


@dataclass(frozen=True)
class CancelCommand:
    """Stop the text that is being spoken; with `everything` those that wait behind it, too."""

    everything: bool = False


@dataclass(frozen=True)
class CloseCommand:
    """Nothing more comes: close, once everything is said."""


Command = SpeakCommand | CancelCommand | CloseCommand

_Model = TypeVar("_Model", bound=BaseModel)


def parse_object(message: str) -> dict[str, Any]:
    """A message that has to be a JSON object. Raises BadRequest."""
    try:
        body = json.loads(message)
    except (ValueError, RecursionError) as error:
        raise BadRequest(
            f'the message is not JSON ({error}): send an object such as {{"text": "Hello."}}', code="bad_message"
        ) from None
    if not isinstance(body, dict):
        raise BadRequest('the message must be a JSON object such as {"text": "Hello."}', code="bad_message")
    return body


def parse_control(body: dict[str, Any]) -> CancelCommand | None:
    """The command of a message with a type of its own; None if the message is a text.

    Raises Unprocessable for a type that is not known.
    """
    kind = body.pop("type", "text")
    if kind == "text":
        return None
    if kind == "cancel":
        return CancelCommand(take_flag(body, "all"))
    raise Unprocessable(f"type: it must be 'text' or 'cancel', not {str(kind)[:60]!r}", code="invalid_parameter")


def take_flag(body: dict[str, Any], name: str) -> bool:
    """Take true or false out of a message; false where it is missing. Raises Unprocessable."""
    value = body.pop(name, False)
    if not isinstance(value, bool):
        raise Unprocessable(f"{name}: it must be true or false, not {str(value)[:60]!r}", code="invalid_parameter")
    return value


def validated(model: type[_Model], body: dict[str, Any]) -> _Model:
    """What a message says, held to its rules. Raises Unprocessable with all that is wrong."""
    try:
        return model.model_validate(body)
    except ValidationError as error:
        details = dict.fromkeys(describe(each) for each in error.errors())
        raise Unprocessable("; ".join(details), code="invalid_parameter") from None
