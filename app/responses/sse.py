"""Encoded audio as server-sent events, the way OpenAI's API names them."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

from engine import FRAME_SAMPLES

from ..audio.encoders import Encoder, Format
from ..audio.encoders.base import Samples


def as_events(audio: Format, characters: int) -> Format:
    """A format whose bytes leave as `speech.audio.delta` events, and behind them one `speech.audio.done`.

    characters: of the text; they stand for its tokens in the account at the end, as frames do for those of the audio.
    """
    return replace(
        audio,
        name=f"{audio.name}+sse",
        media_type="text/event-stream",
        make=lambda: _EventEncoder(audio.make(), characters),
    )


class _EventEncoder:
    def __init__(self, encoder: Encoder, characters: int) -> None:
        self._encoder = encoder
        self._characters = characters
        self._samples = 0

    def encode(self, samples: Samples) -> bytes:
        self._samples += samples.size
        return _delta(self._encoder.encode(samples))

    def flush(self) -> bytes:
        frames = -(-self._samples // FRAME_SAMPLES)
        usage = {
            "input_tokens": self._characters,
            "output_tokens": frames,
            "total_tokens": self._characters + frames,
        }
        return _delta(self._encoder.flush()) + _event({"type": "speech.audio.done", "usage": usage})


def _delta(data: bytes) -> bytes:
    return _event({"type": "speech.audio.delta", "audio": base64.b64encode(data).decode()}) if data else b""


def _event(fields: dict[str, object]) -> bytes:
    return f"data: {json.dumps(fields)}\n\n".encode()
