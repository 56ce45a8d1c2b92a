"""The formats that audio leaves in (API.md section 1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .base import Encoder
from .pcm import RawPcmEncoder
from .wav import WavEncoder


@dataclass(frozen=True)
class Format:
    """One way to send audio.

    media_type: for Content-Type.
    extension: of a file name, without its dot.
    make: builds the encoder of one answer; raises EncoderError if this machine's FFmpeg cannot.
    """

    name: str
    media_type: str
    extension: str
    make: Callable[[], Encoder]


def _compressed(name: str) -> Callable[[], Encoder]:
    def make() -> Encoder:
        from . import profiles  # imports PyAV, which wav and raw_pcm do without

        return profiles.make(name)

    return make


_ALL = (
    Format("wav", "audio/wav", "wav", WavEncoder),
    Format("mp3", "audio/mpeg", "mp3", _compressed("mp3")),
    Format("fmp4", "audio/mp4", "mp4", _compressed("fmp4")),
    Format("raw_pcm", "audio/pcm;rate=24000;channels=1;format=s16le", "pcm", RawPcmEncoder),
    Format("webm", "audio/webm", "webm", _compressed("webm")),
    Format("opus", "audio/ogg", "opus", _compressed("opus")),
    Format("flac", "audio/flac", "flac", _compressed("flac")),
    Format("aac", "audio/aac", "aac", _compressed("aac")),
)

FORMATS: dict[str, Format] = {each.name: each for each in _ALL}  # what stands first wins a tie
