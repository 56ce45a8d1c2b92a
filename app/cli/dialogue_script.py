"""Reads a dialogue that is written as `Name: line`, and finds the voice of each name."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from ..voices.speakers import speaker_number
from .exit_status import CommandFailed, ExitStatus

_NAMED = re.compile(r"(?P<name>[^\s:][^:]{0,127}):(?:\s+|$)(?P<line>.*)")

Turn = tuple[str, str]  # a name, or a voice's id, and a text


def read_script(text: str) -> list[Turn]:
    """The turns of a script: who says what. Raises CommandFailed if it is none.

    A line without a name goes on with the turn before it, as does an indented one. Empty lines, and those that begin
    with #, are skipped.
    """
    turns: list[Turn] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        if (found := _NAMED.match(line)) is not None:
            turns.append((found["name"].strip(), found["line"].strip()))
        elif turns:
            name, said = turns[-1]
            turns[-1] = (name, f"{said} {line.strip()}".strip())
        else:
            raise CommandFailed(f"line {number} of the script has no name: write `Name: line`", ExitStatus.USAGE)
    if silent := next((name for name, said in turns if not said), None):
        raise CommandFailed(f"a turn of {silent} has no text: write it behind `{silent}:`", ExitStatus.USAGE)
    if len(turns) < 2:
        raise CommandFailed(f"the script has {len(turns)} turns: a dialogue needs two", ExitStatus.USAGE)
    return turns


def read_mapping(pairs: Sequence[str]) -> dict[str, str]:
    """The voice of each name, from `Name=ID`. Raises CommandFailed."""
    voices: dict[str, str] = {}
    for pair in pairs:
        name, equals, voice_id = pair.partition("=")
        if not (name.strip() and equals and voice_id.strip()):
            raise CommandFailed(f"--voice {pair}: with --dialogue it is Name=ID", ExitStatus.USAGE)
        voices[name.strip()] = voice_id.strip()
    return voices


def assign_voices(turns: Sequence[Turn], voices: Mapping[str, str], known: Collection[str]) -> list[Turn]:
    """The turns with voices in place of names. A name without a voice may be the id of one of the known voices itself.

    Raises CommandFailed if a name has no voice, or a voice's name says nothing.
    """
    names = dict.fromkeys(name for name, _ in turns)
    missing = [name for name in names if not (name in voices or name in known or speaker_number(name) is not None)]
    if missing:
        options = " ".join(f"--voice '{name}=ID'" for name in missing)
        raise CommandFailed(
            f"no voice for {', '.join(missing)}: {options}, with ids of `csm-serve voices list`", ExitStatus.USAGE
        )
    if unused := [name for name in voices if name not in names]:
        raise CommandFailed(f"--voice {unused[0]}={voices[unused[0]]}: {unused[0]} says nothing", ExitStatus.USAGE)
    return [(voices.get(name, name), said) for name, said in turns]
