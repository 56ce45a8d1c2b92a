from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.audio.encoders import FORMATS, choose_format
from app.audio.encoders.negotiation import parse_accept
from app.errors import UnknownFormat

FIREFOX_AUDIO = "audio/webm,audio/ogg,audio/wav,audio/*;q=0.9,application/ogg;q=0.7,video/*;q=0.6,*/*;q=0.5"


@pytest.mark.parametrize("name", FORMATS)
def test_a_named_format_wins_in_any_case(name: str) -> None:
    assert choose_format(name, "audio/x-wav, audio/mpeg") is FORMATS[name]
    assert choose_format(f" {name.upper()} ", None) is FORMATS[name]


@pytest.mark.parametrize("name", ["ogg", "", "mp3,wav", "x" * 10_000])
def test_an_unknown_format_is_refused_with_all_that_exist(name: str) -> None:
    with pytest.raises(UnknownFormat) as refusal:
        choose_format(name, "audio/mpeg")

    assert all(known in refusal.value.detail for known in FORMATS)
    assert len(refusal.value.detail) < 200


@pytest.mark.parametrize("each", FORMATS.values(), ids=FORMATS)
def test_what_a_format_is_sent_as_also_asks_for_it(each: object) -> None:
    chosen = next(known for known in FORMATS.values() if known is each)

    assert choose_format(None, chosen.media_type) is chosen


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
    ],
)
def test_the_accept_header_names_a_type(accept: str | None, name: str) -> None:
    assert choose_format(None, accept).name == name


@pytest.mark.parametrize(
    ("accept", "name"),
    [
        ("audio/mpeg;q=0.5, audio/flac;q=0.9", "flac"),
        ("audio/mpeg, audio/ogg;codecs=opus", "mp3"),  # equal quality: what stands first
        ("audio/flac, audio/mpeg, */*;q=0.1", "flac"),
        ("*/*, audio/mpeg", "mp3"),  # what is named before a wildcard
        ("*/*;q=0.9, audio/mpeg;q=0.2", "wav"),  # ... unless it is liked less
        ("audio/wav;q=0, */*", "mp3"),  # anything but
        ("audio/wav;q=0.000, audio/*", "mp3"),
        ("audio/wav;q=0, audio/x-unheard-of", "wav"),  # nothing usable
        ("audio/wav;q=0.1, audio/wave;q=0.1, audio/aac;q=0.100", "wav"),
        ("audio/ogg;q=0.1, audio/ogg;codecs=opus;q=0.8, audio/mpeg;q=0.5", "opus"),  # the most specific range counts
        ("audio/mpeg;q=2, audio/aac;q=0.1", "aac"),  # not a quality: left out
        ("audio/mpeg;q=nan, audio/aac;q=0.1", "aac"),
        ('audio/x;note="a,b;q=0", audio/aac', "aac"),
        (",;,audio/aac;;,", "aac"),
        (FIREFOX_AUDIO, "webm"),
    ],
)
def test_the_accept_header_weighs(accept: str, name: str) -> None:
    assert choose_format(None, accept).name == name


@given(st.text(alphabet='audio/*mpegw;q=01.,"\\ \n', max_size=200))
def test_no_accept_header_is_an_error(accept: str) -> None:
    assert choose_format(None, accept) in FORMATS.values()
    assert all(0 <= media_range.quality <= 1 for media_range in parse_accept(accept))


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "accept", ['"' * 60_000, "," * 60_000, "audio/mpeg;" * 6_000, '"\\' * 30_000, "a/b;q=0.1," * 6_000]
)
def test_a_huge_accept_header_is_read_in_linear_time(accept: str) -> None:
    assert choose_format(None, accept) in FORMATS.values()
