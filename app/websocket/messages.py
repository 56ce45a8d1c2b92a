"""Client messages parsed into commands: speak a text, cancel, close."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from engine import SAMPLE_RATE

from ..audio.encoders import Format
from ..errors import BadRequest, Unprocessable
from ..middleware.error_handlers import describe_all
from ..schemas.speech import SpeechJob


@dataclass(frozen=True)
class SpeakCommand:
    """Speak a text, or a piece of one.

    job: the parameters of the speech; the text inside it is ignored.
    continues: more pieces of the text follow, so only its complete sentences can be spoken yet.
    binary: send the audio as binary messages.
    sample_rate: of the audio, in Hz.
    watermark_key: None leaves the audio unmarked.
    audio_format: of the audio that the protocol's writer encodes; None if it sends samples.
    chunk_lengths: characters that have to be unspoken before the first, second, … piece is spoken; the last one applies
        to all further pieces. Empty: each sentence is spoken once it is complete.
    speed: of the audio that the protocol's writer encodes.
    timestamps: tell the writer when each word is said.
    flush: speak all that has been written up to here, whether or not a sentence is complete.
    """

    text: str
    job: SpeechJob
    continues: bool = False
    binary: bool = False
    watermark_key: bytes | None = None
    sample_rate: int = SAMPLE_RATE
    audio_format: Format | None = None
    chunk_lengths: tuple[int, ...] = ()
    flush: bool = False
    speed: float = 1.0
    timestamps: bool = False


@dataclass(frozen=True)
class CancelCommand:
    """Stop the current text; with `include_queued` drop the queued ones too."""

    include_queued: bool = False


@dataclass(frozen=True)
class CloseCommand:
    """No more texts follow: close once all queued ones are spoken."""


Command = SpeakCommand | CancelCommand | CloseCommand

_Model = TypeVar("_Model", bound=BaseModel)


def parse_object(message: str) -> dict[str, Any]:
    """Parse a message that must be a JSON object. Raises BadRequest."""
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
    """The command of a control message; None if the message is a text. Removes the fields it reads.

    Raises Unprocessable if the type is unknown.
    """
    kind = body.pop("type", "text")
    if kind == "text":
        return None
    if kind == "cancel":
        return CancelCommand(pop_flag(body, "all"))
    raise Unprocessable(f"type: it must be 'text' or 'cancel', not {str(kind)[:60]!r}", code="invalid_parameter")


def pop_flag(body: dict[str, Any], name: str) -> bool:
    """Remove a boolean from a message; False if it is missing. Raises Unprocessable if it is not a boolean."""
    value = body.pop(name, False)
    if not isinstance(value, bool):
        raise Unprocessable(f"{name}: it must be true or false, not {str(value)[:60]!r}", code="invalid_parameter")
    return value


def validate(model: type[_Model], body: dict[str, Any]) -> _Model:
    """Validate a message against a model. Raises Unprocessable that lists every error."""
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise Unprocessable(describe_all(error), code="invalid_parameter") from None
