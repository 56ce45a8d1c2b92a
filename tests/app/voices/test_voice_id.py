from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.voices.voice_id import MAX_BYTES, canonical_id, is_voice_id, stem_of, suggest_id

NFD = unicodedata.normalize("NFD", "Stimme-ä.wav")


@pytest.mark.parametrize("name", ["a", "amy.wav", "A-b_c.9", "-", "_", "amy..wav", "amy.", "a" * 128, "v1.2", "txt"])
def test_plain_ids_are_valid(name: str) -> None:
    assert is_voice_id(name)


@pytest.mark.parametrize(
    "name",
    ["my voice (1).wav", "Stimme-ä.wav", "声音.wav", "Голос 2", "صوت.mp3", "हिन्दी.wav", "(take 3)", "٣.wav", "é" * 64],
)
def test_ids_of_any_script_are_valid(name: str) -> None:
    assert is_voice_id(name)
    assert canonical_id(unicodedata.normalize("NFD", name)) == name


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", ".amy", " amy", "../amy", "a/b", "a\\b", "amy\n", "amy\0", "amy.txt", "amy.TXT", "a:b", "a*"),
        "a" * 129,
        "é" * 65,
        NFD,
        "a\u0007",
        "a\u2028b",
        "a\u202eb",
        "a\u200bb",
        "\u0301a",
        "\udcff.wav",
        "👍.wav",
        "a\tb",
    ],
)
def test_control_path_and_other_characters_are_not(name: str) -> None:
    assert not is_voice_id(name)


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("../amy.wav", "amy.wav"),
        ("C:\\Users\\amy:2.wav", "amy-2.wav"),
        (" .my voice.wav", "my voice.wav"),
        (NFD, "Stimme-ä.wav"),
        ("ä" * 200 + ".wav", "ä" * 62 + ".wav"),
        ("👍", ""),
        ("", ""),
        ("..", ""),
    ],
)
def test_a_valid_id_close_to_a_name_is_suggested(name: str, suggestion: str) -> None:
    assert suggest_id(name) == suggestion


@settings(deadline=None)
@given(st.text(max_size=300))
def test_a_suggestion_is_valid_and_an_id_is_safe_in_a_path(name: str) -> None:
    suggestion = suggest_id(name)
    assert not suggestion or is_voice_id(suggestion)
    if is_voice_id(name):
        assert not {"/", "\\", "\0"} & set(name)
        assert name not in (".", "..")
        assert len(name.encode()) <= MAX_BYTES
        assert name.isprintable()


@pytest.mark.parametrize(
    ("voice_id", "stem"),
    [
        ("amy.wav", "amy"),
        ("amy.OGG", "amy"),
        ("amy", "amy"),
        ("v1.2", "v1.2"),
        ("a.b.wav", "a.b"),
        ("my amy.caf", "my amy"),
    ],
)
def test_stem_drops_only_audio_extensions(voice_id: str, stem: str) -> None:
    assert stem_of(voice_id) == stem
