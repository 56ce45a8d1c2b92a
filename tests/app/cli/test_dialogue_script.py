from __future__ import annotations

import pytest

from app.cli.dialogue_script import assign_voices, read_mapping, read_script
from app.cli.exit_status import CommandFailed

SCRIPT = """\
# A play
Ann:  Did you hear that?
   I did.

Bob Lee: No: what was it?
It was nothing at 10:30.
Ann:
  Go on.
"""
TURNS = [
    ("Ann", "Did you hear that? I did."),
    ("Bob Lee", "No: what was it? It was nothing at 10:30."),
    ("Ann", "Go on."),
]


def test_a_script_has_turns_of_one_or_more_lines() -> None:
    assert read_script(SCRIPT) == TURNS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has 0 turns"),
        ("Ann: Hello.", "has 1 turns"),
        ("Hello.\nAnn: Hi.", "line 1 of the script has no name"),
        ("Ann: Hello.\nBob:\n", "a turn of Bob has no text"),
    ],
)
def test_what_is_no_dialogue_is_explained(text: str, message: str) -> None:
    with pytest.raises(CommandFailed, match=message):
        read_script(text)


def test_names_get_their_voices() -> None:
    voices = read_mapping(["Ann=amy.wav", "Bob Lee = speaker_1"])
    assert [voice for voice, _ in assign_voices(TURNS, voices, [])] == ["amy.wav", "speaker_1", "amy.wav"]
    turns = [("speaker_3", "Hi."), ("amy.wav", "Yes?"), ("Bob", "No.")]
    assert [voice for voice, _ in assign_voices(turns, {"Bob": "b.wav"}, ["amy.wav"])] == [
        "speaker_3",
        "amy.wav",
        "b.wav",
    ]
    with pytest.raises(CommandFailed, match="no voice for Ann, Bob Lee: --voice 'Ann=ID' --voice 'Bob Lee=ID'"):
        assign_voices(TURNS, {}, ["amy.wav"])
    with pytest.raises(CommandFailed, match="Eve says nothing"):
        assign_voices(TURNS, {**voices, "Eve": "eve.wav"}, [])
    for wrong in ("amy.wav", "=amy.wav", "Ann="):
        with pytest.raises(CommandFailed, match="it is Name=ID"):
            read_mapping([wrong])
