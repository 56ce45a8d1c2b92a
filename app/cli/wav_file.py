"""Writes a conversation's audio to a file."""

from __future__ import annotations

import wave
from pathlib import Path

from engine import SAMPLE_RATE


def write_wav(path: Path, pcm: bytes | bytearray) -> None:
    """pcm: 16-bit mono samples at 24 kHz. Raises OSError."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(pcm)
