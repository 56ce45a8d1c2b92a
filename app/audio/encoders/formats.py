"""The output formats (API.md section 1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .base import Encoder
from .pcm import RawPcmEncoder
from .wav import WavEncoder


@dataclass(frozen=True)
class Format:
    """One output format.

    media_type: the Content-Type of a response.
    extension: of a file name, without the dot.
    create_encoder: creates the encoder of one response; raises EncoderError if this machine's FFmpeg cannot.
    """

    name: str
    media_type: str
    extension: str
    create_encoder: Callable[[], Encoder]


# PyAV is imported with the first compressed response: wav and raw_pcm do not need it.


def _create_fmp4_encoder() -> Encoder:
    from .fmp4 import Fmp4Encoder

    return Fmp4Encoder()


def _container_encoder(profile: str) -> Callable[[], Encoder]:
    def create_encoder() -> Encoder:
        from .container import ContainerEncoder
        from .profiles import PROFILES

        return ContainerEncoder(PROFILES[profile])

    return create_encoder


_ALL = (
    Format("wav", "audio/wav", "wav", WavEncoder),
    Format("mp3", "audio/mpeg", "mp3", _container_encoder("mp3")),
    Format("fmp4", "audio/mp4", "mp4", _create_fmp4_encoder),
    Format("raw_pcm", "audio/pcm;rate=24000;channels=1;format=s16le", "pcm", RawPcmEncoder),
    Format("webm", "audio/webm", "webm", _container_encoder("webm")),
    Format("opus", "audio/ogg", "opus", _container_encoder("opus")),
    Format("flac", "audio/flac", "flac", _container_encoder("flac")),
    Format("aac", "audio/aac", "aac", _container_encoder("aac")),
)

FORMATS: dict[str, Format] = {each.name: each for each in _ALL}  # on equal quality the first wins
