"""The usage of one response, as the protocol counts it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class TokenUsage:
    """Tokens of text as the language model counts them, tokens of audio as frames of 80 ms."""

    input_text: int = 0
    output_text: int = 0
    input_audio: int = 0
    output_audio: int = 0

    def to_json(self) -> dict[str, Any]:
        read, written = self.input_text + self.input_audio, self.output_text + self.output_audio
        return {
            "total_tokens": read + written,
            "input_tokens": read,
            "output_tokens": written,
            "input_token_details": {
                "text_tokens": self.input_text,
                "audio_tokens": self.input_audio,
                "cached_tokens": 0,
            },
            "output_token_details": {"text_tokens": self.output_text, "audio_tokens": self.output_audio},
        }
