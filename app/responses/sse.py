"""Encoded audio as server-sent events, in the format of OpenAI's API."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

from engine import FRAME_SAMPLES

from ..audio.encoders import Encoder, Format
from ..audio.encoders.base import Samples
from ..audio.timeline import ChunkMark


def as_events(audio_format: Format, characters: int) -> Format:
    """A format whose bytes are sent as `speech.audio.delta` events, followed by one `speech.audio.done`.

    characters: of the text; reported as its token count in the usage, as frames are for the audio.
    """
    return replace(
        audio_format,
        name=f"{audio_format.name}+sse",
        media_type="text/event-stream",
        create_encoder=lambda: _EventEncoder(audio_format.create_encoder(), characters),
    )


class _EventEncoder:
    def __init__(self, encoder: Encoder, characters: int) -> None:
        self._encoder = encoder
        self._characters = characters
        self._samples = 0

    def encode(self, samples: Samples) -> bytes:
        self._samples += samples.size
        return _delta(self._encoder.encode(samples))

    def mark(self, mark: ChunkMark) -> bytes:
        return _event({"type": "speech.audio.mark", **mark.as_fields()})

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
