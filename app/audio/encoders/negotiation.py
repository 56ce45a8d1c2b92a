"""Content negotiation: the `format` parameter, else the Accept header, else wav (RFC 9110, 12.5.1)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ...errors import UnknownFormat
from .formats import FORMATS, Format, format_at, formats_at

DEFAULT = "wav"

_MEDIA_TYPES = {
    "wav": {"audio/wav", "audio/x-wav", "audio/wave", "audio/vnd.wave"},
    "mp3": {"audio/mpeg", "audio/mp3", "audio/x-mp3", "audio/mpeg3"},
    "fmp4": {"audio/mp4", "audio/m4a", "audio/x-m4a"},
    "raw_pcm": {"audio/pcm", "audio/l16", "audio/x-raw"},
    "webm": {"audio/webm"},
    "opus": {"audio/ogg", "audio/opus", "application/ogg"},
    "flac": {"audio/flac", "audio/x-flac"},
    "aac": {"audio/aac", "audio/aacp", "audio/x-aac"},
    "mulaw": {"audio/pcmu", "audio/basic"},
    "alaw": {"audio/pcma"},
    "wav_mulaw": {"audio/wav", "audio/x-wav", "audio/wave", "audio/vnd.wave"},
    "wav_alaw": {"audio/wav", "audio/x-wav", "audio/wave", "audio/vnd.wave"},
}
_CODECS = {
    "wav": {"1"},
    "mp3": {"mp3"},
    "fmp4": {"mp4a.40.2", "mp4a.40"},
    "webm": {"opus"},
    "opus": {"opus"},
    "flac": {"flac"},
    "aac": {"mp4a.40.2"},
    "wav_mulaw": {"7"},
    "wav_alaw": {"6"},
}
_PCM_PARAMETERS = {"channels": "1", "format": "s16le"}

# Neither backtracks: at every position at most one branch matches.
_ELEMENT = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*"?)+')
_PARAMETER = re.compile(r'(?:[^;"]|"(?:[^"\\]|\\.)*"?)+')
_QUALITY = re.compile(r"0(?:\.\d{0,3})?|1(?:\.0{0,3})?")


@dataclass(frozen=True)
class MediaRange:
    """One element of an Accept header: `audio/ogg;codecs=opus;q=0.5`, all in lower case."""

    media_type: str
    parameters: dict[str, str]
    quality: float

    @property
    def wildcards(self) -> int:
        return self.media_type.split("/").count("*")

    def covers(self, candidate: Format) -> bool:
        if self.media_type in ("*/*", "audio/*"):
            return True
        if self.media_type not in _MEDIA_TYPES[candidate.name]:
            return False
        codecs = {codec.strip() for codec in self.parameters.get("codecs", "").split(",") if codec.strip()}
        if not codecs <= _CODECS.get(candidate.name, set()):
            return False
        parameters = {**_PCM_PARAMETERS, "rate": str(candidate.sample_rate)}
        return all(self.parameters.get(name, value) == value for name, value in parameters.items())


def parse_accept(accept: str) -> Iterator[MediaRange]:
    """The elements of an Accept header, in order; those with an invalid quality are skipped."""
    for element in _ELEMENT.findall(accept.lower()):
        media_type, *pairs = [part.strip() for part in _PARAMETER.findall(element)] or [""]
        parameters = {}
        for pair in pairs:
            name, _, value = pair.partition("=")
            parameters[name.strip()] = value.strip().strip('"')
        quality = parameters.pop("q", "1")
        if _QUALITY.fullmatch(quality):
            yield MediaRange(media_type, parameters, float(quality))


def choose_format(
    format: str | None,  # noqa: A002  the parameter's name in API.md
    accept: str | None,
    sample_rate: int | None = None,
) -> Format:
    """The format of a response. Raises UnknownFormat if `format` names none, Unprocessable if it cannot carry the rate.

    sample_rate: in Hz; None is the default of the format. An Accept header selects among those that can carry it.
    format: a name of FORMATS in any case; it overrides the Accept header.
    accept: an Accept header. The most specific range that covers a format gives its quality. The highest quality
        wins, then a named type over a wildcard, then the first in the header. If no format is acceptable: wav.
    """
    if format is not None:
        name = format.strip().lower()
        if name not in FORMATS:
            raise UnknownFormat(f"format {format[:40]!r} is unknown: use one of {', '.join(FORMATS)}")
        return format_at(name, sample_rate)
    ranges = list(enumerate(parse_accept(accept or "")))
    best, best_rank = format_at(DEFAULT, sample_rate), None
    for candidate in formats_at(sample_rate).values():
        covering = [(position, media_range) for position, media_range in ranges if media_range.covers(candidate)]
        if not covering:
            continue
        position, most_specific = min(covering, key=lambda each: (each[1].wildcards, -len(each[1].parameters), each[0]))
        rank = (most_specific.quality, -most_specific.wildcards, -position)
        if most_specific.quality > 0 and (best_rank is None or rank > best_rank):
            best, best_rank = candidate, rank
    return best
