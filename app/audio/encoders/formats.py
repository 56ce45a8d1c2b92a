"""The output formats (API.md section 1), each at the sample rates that it can carry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from engine import SAMPLE_RATE

from ...errors import Unprocessable
from .base import Encoder
from .pcm import RawPcmEncoder
from .wav import WavEncoder

MIN_SAMPLE_RATE, MAX_SAMPLE_RATE = 8_000, 48_000  # Hz
_TELEPHONE_RATE = 8_000
_MPEG_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
_OPUS_RATES = (8_000, 12_000, 16_000, 24_000, 48_000)

EncoderMaker = Callable[[int], Encoder]


@dataclass(frozen=True)
class Format:
    """One output format.

    media_type: the Content-Type of a response.
    extension: of a file name, without the dot.
    create_encoder: creates the encoder of one response, from samples at 24 kHz; raises EncoderError if this machine's
        FFmpeg cannot.
    sample_rate: of the encoded audio, in Hz.
    """

    name: str
    media_type: str
    extension: str
    create_encoder: Callable[[], Encoder]
    sample_rate: int = SAMPLE_RATE


@dataclass(frozen=True)
class _Kind:
    """A format at any sample rate.

    media_type: may hold {rate}.
    make: the encoder of samples at a rate.
    rates: those it can carry; empty for all from MIN_SAMPLE_RATE to MAX_SAMPLE_RATE.
    """

    media_type: str
    extension: str
    make: EncoderMaker
    rates: Sequence[int] = field(default=())
    default_rate: int = SAMPLE_RATE

    def carries(self, rate: int) -> bool:
        return rate in self.rates if self.rates else MIN_SAMPLE_RATE <= rate <= MAX_SAMPLE_RATE

    def at(self, name: str, rate: int) -> Format:
        def create_encoder() -> Encoder:
            if rate == SAMPLE_RATE:
                return self.make(rate)
            from .resampling import ResamplingEncoder

            return ResamplingEncoder(self.make(rate), rate)

        return Format(name, self.media_type.format(rate=rate), self.extension, create_encoder, rate)


# PyAV is imported with the first compressed or resampled response: wav and raw_pcm at 24 kHz do not need it.


def _make_fmp4(rate: int) -> Encoder:
    from .fmp4 import Fmp4Encoder

    return Fmp4Encoder(rate)


def _container(profile: str) -> EncoderMaker:
    def make(rate: int) -> Encoder:
        from .container import ContainerEncoder
        from .profiles import PROFILES

        return ContainerEncoder(PROFILES[profile], rate)

    return make


def _g711(law: str, *, in_wav: bool = False) -> EncoderMaker:
    def make(rate: int) -> Encoder:
        from .g711 import G711Encoder

        return G711Encoder("mulaw" if law == "mulaw" else "alaw", rate, in_wav=in_wav)

    return make


_KINDS = {
    "wav": _Kind("audio/wav", "wav", WavEncoder),
    "mp3": _Kind("audio/mpeg", "mp3", _container("mp3"), _MPEG_RATES),
    "fmp4": _Kind("audio/mp4", "mp4", _make_fmp4, _MPEG_RATES),
    "raw_pcm": _Kind("audio/pcm;rate={rate};channels=1;format=s16le", "pcm", lambda rate: RawPcmEncoder()),
    "webm": _Kind("audio/webm", "webm", _container("webm"), _OPUS_RATES),
    "opus": _Kind("audio/ogg", "opus", _container("opus"), _OPUS_RATES),
    "flac": _Kind("audio/flac", "flac", _container("flac")),
    "aac": _Kind("audio/aac", "aac", _container("aac"), _MPEG_RATES),
    # G.711: raw, and in wav files. RFC 4856 registers the media types.
    "mulaw": _Kind("audio/pcmu;rate={rate};channels=1", "ulaw", _g711("mulaw"), default_rate=_TELEPHONE_RATE),
    "alaw": _Kind("audio/pcma;rate={rate};channels=1", "alaw", _g711("alaw"), default_rate=_TELEPHONE_RATE),
    "wav_mulaw": _Kind("audio/wav", "wav", _g711("mulaw", in_wav=True), default_rate=_TELEPHONE_RATE),
    "wav_alaw": _Kind("audio/wav", "wav", _g711("alaw", in_wav=True), default_rate=_TELEPHONE_RATE),
}

# At their default rates. On equal quality the first wins.
FORMATS: dict[str, Format] = {name: kind.at(name, kind.default_rate) for name, kind in _KINDS.items()}


def formats_at(sample_rate: int | None) -> dict[str, Format]:
    """The formats that can carry a sample rate, at that rate; None: all, each at its default rate."""
    if sample_rate is None:
        return FORMATS
    return {name: kind.at(name, sample_rate) for name, kind in _KINDS.items() if kind.carries(sample_rate)}


def format_at(name: str, sample_rate: int | None) -> Format:
    """A format at a sample rate; None: at its default rate. Raises Unprocessable if it cannot carry that rate."""
    kind = _KINDS[name]
    if sample_rate is None:
        return FORMATS[name]
    if not kind.carries(sample_rate):
        rates = ", ".join(map(str, kind.rates)) or f"{MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE}"
        raise Unprocessable(
            f"sample_rate {sample_rate} cannot be carried by {name}: use {rates}, or a format such as wav or raw_pcm",
            code="unsupported_sample_rate",
        )
    return kind.at(name, sample_rate)
