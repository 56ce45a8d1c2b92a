"""Events that a conversation sends, as JSON objects, and its settings. No network I/O."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from .options import Reference

Request = dict[str, Any]

_FORMATS = {
    "pcm": {"type": "audio/pcm", "rate": 24_000},
    "mulaw": {"type": "audio/pcmu"},
    "alaw": {"type": "audio/pcma"},
}
_DETECTION = ("threshold", "prefix_padding_ms", "silence_duration_ms", "create_response", "interrupt_response")
_PLAIN = ("instructions", "tools", "tool_choice", "temperature", "max_output_tokens")


class ConversationOptions(TypedDict, total=False):
    """Settings of a conversation. Omitted ones have the service's defaults, or stay as they are."""

    voice_id: str
    reference: Reference  # a recording in place of a voice; `reference("amy.wav", "Its words.")` reads a file
    instructions: str  # to the language model
    speaks: bool  # whether answers are spoken; else they are text alone
    audio_format: Literal["pcm", "mulaw", "alaw"]  # both ways: 16-bit PCM at 24 kHz, G.711 at 8 kHz
    speed: float  # 0.25 to 4
    language: str  # of the user's speech, such as "en"
    push_to_talk: bool  # True: a turn ends with commit_audio; False: with a silence
    threshold: float  # probability of speech, 0 to 1
    prefix_padding_ms: int  # audio before the speech that belongs to the turn
    silence_duration_ms: int  # the silence that ends a turn
    create_response: bool  # whether a turn is answered at once
    interrupt_response: bool  # whether the user's speech ends the answer
    tools: Sequence[Mapping[str, Any]]  # functions, as JSON Schema
    tool_choice: str | Mapping[str, Any]
    temperature: float  # of the language model
    max_output_tokens: int


def session_update(options: Mapping[str, Any]) -> Request:
    """Raises ValueError for a format that does not exist."""
    session: Request = {"type": "realtime", **{name: options[name] for name in _PLAIN if name in options}}
    if "speaks" in options:
        session["output_modalities"] = ["audio" if options["speaks"] else "text"]
    audio_in: Request = {}
    audio_out: Request = {}
    if "audio_format" in options:
        if options["audio_format"] not in _FORMATS:
            raise ValueError(f"audio_format is {options['audio_format']!r}: it must be one of {', '.join(_FORMATS)}")
        audio_in["format"] = audio_out["format"] = _FORMATS[options["audio_format"]]
    if "voice_id" in options:
        audio_out["voice"] = options["voice_id"]
    if "reference" in options:
        audio_out["voice"] = {"reference": options["reference"]}
    if "speed" in options:
        audio_out["speed"] = options["speed"]
    if "language" in options:
        audio_in["transcription"] = {"language": options["language"]}
    detection = {name: options[name] for name in _DETECTION if name in options}
    if options.get("push_to_talk"):
        audio_in["turn_detection"] = None
    elif detection or "push_to_talk" in options:
        audio_in["turn_detection"] = {"type": "server_vad", **detection}
    session["audio"] = {"input": audio_in, "output": audio_out}
    return {"type": "session.update", "session": session}


def append_audio(audio: bytes) -> Request:
    return {"type": "input_audio_buffer.append", "audio": base64.b64encode(audio).decode()}


def user_text(text: str) -> Request:
    return _item({"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]})


def function_output(call_id: str, output: str) -> Request:
    return _item({"type": "function_call_output", "call_id": call_id, "output": output})


def truncate(item_id: str, heard_ms: int) -> Request:
    return {"type": "conversation.item.truncate", "item_id": item_id, "content_index": 0, "audio_end_ms": heard_ms}


def _item(item: Request) -> Request:
    return {"type": "conversation.item.create", "item": item}
