from __future__ import annotations

from pathlib import Path

import pytest

from app.errors import Unprocessable
from app.voices.folder import VoiceFolder
from app.voices.transcript import (
    MAX_CHARACTERS,
    TranscriptSidecar,
    clean_transcript,
    find_transcript,
    read_transcript,
    transcript_names,
    write_sidecar,
)

SHA = "a" * 64
OTHER = "b" * 64


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("Hello there.", "Hello there."),
        ("  Hello\r\n\r\n\tthere. \n", "Hello there."),
        ("one\u2028two\u2029three", "one two three"),
        ("Grüße, 你好, नमस्ते", "Grüße, 你好, नमस्ते"),
        (" \n ", ""),
    ],
)
def test_newlines_fold_and_words_stay(text: str, cleaned: str) -> None:
    assert clean_transcript(text) == cleaned


@pytest.mark.parametrize("text", ["a\0b", "a\x1b[31mb", "a\x7fb", "a\x80b", "a\ud800b"])
def test_what_is_no_text_is_refused_and_named(text: str) -> None:
    with pytest.raises(Unprocessable, match=f"U\\+{ord(text[1]):04X} at character 2"):
        clean_transcript(text)


def test_the_longest_transcript_is_taken_and_one_more_character_is_not() -> None:
    assert len(clean_transcript("ü" * MAX_CHARACTERS)) == MAX_CHARACTERS
    with pytest.raises(Unprocessable, match=str(MAX_CHARACTERS)):
        clean_transcript("ü" * (MAX_CHARACTERS + 1))


def test_a_file_may_begin_with_a_byte_order_mark() -> None:
    assert read_transcript(b"\xef\xbb\xbfHello\r\n", "amy.txt") == "Hello"


@pytest.mark.parametrize("data", [b"\xff\xfeH\0i\0", b"caf\xe9", b"a" * 20_000, b"a\0"])
def test_a_bad_file_is_named(data: bytes) -> None:
    with pytest.raises(Unprocessable, match=r"amy\.txt"):
        read_transcript(data, "amy.txt")


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"transcript": 1, "beside": null}', b'{"x": 1}', b"\xff"])
def test_a_note_that_is_not_ours_is_none(data: bytes) -> None:
    assert TranscriptSidecar.from_bytes(data) is None


@pytest.mark.parametrize(
    ("voice_id", "names"),
    [
        ("amy.wav", ("amy.wav.txt", "amy.txt")),
        ("amy.MP3", ("amy.MP3.txt", "amy.txt")),
        ("amy", ("amy.txt",)),
        ("v1.2", ("v1.2.txt",)),
    ],
)
def test_where_a_transcript_is_looked_for(voice_id: str, names: tuple[str, ...]) -> None:
    assert transcript_names(voice_id) == names


def test_a_note_speaks_for_one_content_of_one_recording_only(tmp_path: Path) -> None:
    folder = VoiceFolder(tmp_path)
    write_sidecar(folder, "amy.wav", SHA, "hello")
    assert find_transcript(folder, "amy.wav", SHA) == "hello"
    assert find_transcript(folder, "amy.wav", OTHER) == ""
    assert find_transcript(folder, "amy.mp3", SHA) == ""


def test_a_note_overrides_what_lay_there_and_yields_to_what_is_put_there_later(tmp_path: Path) -> None:
    folder = VoiceFolder(tmp_path)
    (tmp_path / "amy.txt").write_text("of an older amy")
    write_sidecar(folder, "amy.wav", SHA, "")
    assert find_transcript(folder, "amy.wav", SHA) == ""
    (tmp_path / "amy.txt").write_text("by hand")
    assert find_transcript(folder, "amy.wav", SHA) == "by hand"
    (tmp_path / "amy.wav.txt").write_text("for the wav alone")
    assert find_transcript(folder, "amy.wav", SHA) == "for the wav alone"
    assert find_transcript(folder, "amy.mp3", SHA) == "by hand"
