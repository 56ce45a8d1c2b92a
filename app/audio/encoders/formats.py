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


# PyAV is imported when the first compressed answer is made: wav and raw_pcm do without.


def _make_fmp4() -> Encoder:
    from .fmp4 import Fmp4Encoder

    return Fmp4Encoder()


def _maker(profile: str) -> Callable[[], Encoder]:
    def make() -> Encoder:
        from .container import ContainerEncoder
        from .profiles import PROFILES

        return ContainerEncoder(PROFILES[profile])

    return make


_ALL = (
    Format("wav", "audio/wav", "wav", WavEncoder),
    Format("mp3", "audio/mpeg", "mp3", _maker("mp3")),
    Format("fmp4", "audio/mp4", "mp4", _make_fmp4),
    Format("raw_pcm", "audio/pcm;rate=24000;channels=1;format=s16le", "pcm", RawPcmEncoder),
    Format("webm", "audio/webm", "webm", _maker("webm")),
    Format("opus", "audio/ogg", "opus", _maker("opus")),
    Format("flac", "audio/flac", "flac", _maker("flac")),
    Format("aac", "audio/aac", "aac", _maker("aac")),
)

FORMATS: dict[str, Format] = {each.name: each for each in _ALL}  # what stands first wins a tie
