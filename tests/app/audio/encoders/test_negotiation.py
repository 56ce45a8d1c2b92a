from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.audio.encoders import FORMATS, choose_format
from app.audio.encoders.negotiation import parse_accept
from app.errors import UnknownFormat

FIREFOX_AUDIO = "audio/webm,audio/ogg,audio/wav,audio/*;q=0.9,application/ogg;q=0.7,video/*;q=0.6,*/*;q=0.5"


@pytest.mark.parametrize("name", FORMATS)
def test_the_format_parameter_overrides_accept_in_any_case(name: str) -> None:
    assert choose_format(name, "audio/x-wav, audio/mpeg") is FORMATS[name]
    assert choose_format(f" {name.upper()} ", None) is FORMATS[name]


@pytest.mark.parametrize("name", ["ogg", "", "mp3,wav", "x" * 10_000])
def test_an_unknown_format_error_lists_all_formats(name: str) -> None:
    with pytest.raises(UnknownFormat) as raised:
        choose_format(name, "audio/mpeg")

    assert all(known in raised.value.detail for known in FORMATS)
    assert len(raised.value.detail) < 200


@pytest.mark.parametrize("each", FORMATS.values(), ids=FORMATS)
def test_every_media_type_selects_its_format(each: object) -> None:
    chosen = next(known for known in FORMATS.values() if known is each)
    codec = {"wav_mulaw": ";codecs=7", "wav_alaw": ";codecs=6"}.get(chosen.name, "")

    assert choose_format(None, chosen.media_type + codec) is chosen


@pytest.mark.parametrize(
    ("accept", "name"),
    [
        (None, "wav"),
        ("", "wav"),
        ("*/*", "wav"),
        ("audio/*", "wav"),
        ("text/html, application/json", "wav"),
        ("audio/x-wav", "wav"),
        ("audio/wave", "wav"),
        ("audio/mp3", "mp3"),
        ("AUDIO/MPEG", "mp3"),
        ("audio/mp4", "fmp4"),
        ('audio/mp4; codecs="mp4a.40.2"', "fmp4"),
        ('audio/mp4; codecs="flac"', "wav"),
        ("audio/webm", "webm"),
        ("audio/webm;codecs=opus", "webm"),
        ('audio/webm;codecs="vorbis"', "wav"),
        ("audio/ogg", "opus"),
        ("audio/ogg; codecs=opus", "opus"),
        ("audio/ogg; codecs=vorbis", "wav"),
        ("audio/ogg; codecs=vorbis, audio/flac;q=0.1", "flac"),
        ("audio/aac", "aac"),
        ("audio/pcm", "raw_pcm"),
        ("audio/L16;rate=24000;channels=1", "raw_pcm"),
        ("audio/L16;rate=44100", "wav"),
        ("audio/pcm;format=f32le, audio/mpeg", "mp3"),
        ("audio/basic", "mulaw"),
        ("audio/PCMA;rate=8000", "alaw"),
        ("audio/pcmu;rate=16000, audio/flac;q=0.2", "flac"),
        ("audio/wav;codecs=1", "wav"),
    ],
)
def test_accept_selects_by_media_type(accept: str | None, name: str) -> None:
    assert choose_format(None, accept).name == name


@pytest.mark.parametrize(
    ("accept", "name"),
    [
        ("audio/mpeg;q=0.5, audio/flac;q=0.9", "flac"),
        ("audio/mpeg, audio/ogg;codecs=opus", "mp3"),  # equal quality: the first in the header
        ("audio/flac, audio/mpeg, */*;q=0.1", "flac"),
        ("*/*, audio/mpeg", "mp3"),  # a named type before a wildcard
        ("*/*;q=0.9, audio/mpeg;q=0.2", "wav"),  # ... unless its quality is lower
        ("audio/wav;q=0, */*", "mp3"),  # any type except
        ("audio/wav;q=0.000, audio/*", "mp3"),
        ("audio/wav;q=0, audio/x-unheard-of", "wav"),  # none acceptable
        ("audio/wav;q=0.1, audio/wave;q=0.1, audio/aac;q=0.100", "wav"),
        ("audio/ogg;q=0.1, audio/ogg;codecs=opus;q=0.8, audio/mpeg;q=0.5", "opus"),  # the most specific range counts
        ("audio/mpeg;q=2, audio/aac;q=0.1", "aac"),  # invalid quality: skipped
        ("audio/mpeg;q=nan, audio/aac;q=0.1", "aac"),
        ('audio/x;note="a,b;q=0", audio/aac', "aac"),
        (",;,audio/aac;;,", "aac"),
        (FIREFOX_AUDIO, "webm"),
    ],
)
def test_accept_selects_by_quality(accept: str, name: str) -> None:
    assert choose_format(None, accept).name == name


@pytest.mark.parametrize(
    ("accept", "rate", "name"),
    [
        ("audio/pcm;rate=16000", 16_000, "raw_pcm"),
        ("audio/pcm;rate=24000, audio/flac;q=0.5", 16_000, "flac"),
        ("audio/mpeg, audio/flac;q=0.5", 9_000, "flac"),  # mp3 cannot carry 9 kHz
        ("audio/mpeg", 9_000, "wav"),
        (None, 48_000, "wav"),
        ("audio/pcmu", 16_000, "mulaw"),
    ],
)
def test_accept_selects_among_the_formats_that_carry_the_sample_rate(accept: str | None, rate: int, name: str) -> None:
    chosen = choose_format(None, accept, rate)
    assert (chosen.name, chosen.sample_rate) == (name, rate)


@given(st.text(alphabet='audio/*mpegw;q=01.,"\\ \n', max_size=200))
def test_every_accept_header_selects_a_format(accept: str) -> None:
    assert choose_format(None, accept) in FORMATS.values()
    assert all(0 <= media_range.quality <= 1 for media_range in parse_accept(accept))


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "accept", ['"' * 60_000, "," * 60_000, "audio/mpeg;" * 6_000, '"\\' * 30_000, "a/b;q=0.1," * 6_000]
)
def test_a_huge_accept_header_is_parsed_in_linear_time(accept: str) -> None:
    assert choose_format(None, accept) in FORMATS.values()
