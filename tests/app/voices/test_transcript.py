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
def test_whitespace_is_collapsed(text: str, cleaned: str) -> None:
    assert clean_transcript(text) == cleaned


@pytest.mark.parametrize("text", ["a\0b", "a\x1b[31mb", "a\x7fb", "a\x80b", "a\ud800b"])
def test_control_characters_are_rejected_and_named(text: str) -> None:
    with pytest.raises(Unprocessable, match=f"U\\+{ord(text[1]):04X} at character 2"):
        clean_transcript(text)


def test_max_characters_is_the_longest_accepted_transcript() -> None:
    assert len(clean_transcript("ü" * MAX_CHARACTERS)) == MAX_CHARACTERS
    with pytest.raises(Unprocessable, match=str(MAX_CHARACTERS)):
        clean_transcript("ü" * (MAX_CHARACTERS + 1))


def test_a_byte_order_mark_is_ignored() -> None:
    assert read_transcript(b"\xef\xbb\xbfHello\r\n", "amy.txt") == "Hello"


@pytest.mark.parametrize("data", [b"\xff\xfeH\0i\0", b"caf\xe9", b"a" * 20_000, b"a\0"])
def test_the_error_names_a_bad_file(data: bytes) -> None:
    with pytest.raises(Unprocessable, match=r"amy\.txt"):
        read_transcript(data, "amy.txt")


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"transcript": 1, "beside": null}', b'{"x": 1}', b"\xff"])
def test_an_invalid_sidecar_is_none(data: bytes) -> None:
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
def test_transcript_file_names(voice_id: str, names: tuple[str, ...]) -> None:
    assert transcript_names(voice_id) == names


def test_a_sidecar_applies_to_one_content_of_one_recording(tmp_path: Path) -> None:
    folder = VoiceFolder(tmp_path)
    write_sidecar(folder, "amy.wav", SHA, "hello")
    assert find_transcript(folder, "amy.wav", SHA) == "hello"
    assert find_transcript(folder, "amy.wav", OTHER) == ""
    assert find_transcript(folder, "amy.mp3", SHA) == ""


def test_a_sidecar_overrides_earlier_text_files_but_not_later_ones(tmp_path: Path) -> None:
    folder = VoiceFolder(tmp_path)
    (tmp_path / "amy.txt").write_text("of an older amy")
    write_sidecar(folder, "amy.wav", SHA, "")
    assert find_transcript(folder, "amy.wav", SHA) == ""
    (tmp_path / "amy.txt").write_text("manually added")
    assert find_transcript(folder, "amy.wav", SHA) == "manually added"
    (tmp_path / "amy.wav.txt").write_text("for the wav only")
    assert find_transcript(folder, "amy.wav", SHA) == "for the wav only"
    assert find_transcript(folder, "amy.mp3", SHA) == "manually added"
