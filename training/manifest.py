"""Manifest: which recordings a folder holds, what is said in them and by whom.

One of these layouts:

    metadata.jsonl   {"file": "one.wav", "text": "…", "speaker": "anna"} on each line
    metadata.csv     a first line of names (file,text,speaker), then a line each; , ; tab or | between them
    metadata.csv     as LJSpeech has it: id|text|normalized text, with the recordings in wavs/
    NAME.txt         beside NAME.wav, for one speaker

`speaker` may be left out, or be a number (kept) or a name (given the next number that is free).
"""

from __future__ import annotations

import csv
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .audio import SUFFIXES
from .errors import RecordingsError
from .validation_issue import ValidationIssue

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.tsv")
HIGHEST_SPEAKER = 999  # as in a request to the service

# What data sets in common use call these columns, ours first.
_FILE = ("file", "file_name", "filename", "audio", "audio_file", "audio_filepath", "path")
_TEXT = ("text", "transcript", "transcription", "sentence")
_SPEAKER = ("speaker", "speaker_name", "speaker_id")
_NAME = ("id", "name")
_NUMBER = re.compile(r"(?:speaker_)?(\d+)(?:\.0)?")  # spreadsheets make 3.0 of 3


@dataclass(frozen=True)
class Recording:
    """One clip as the manifest has it; nothing about the file itself is known yet.

    name: of the clip, the same from run to run. text: what is said in it, white space folded; empty if not known.
    speaker: the number in brackets before its text. where: the line that says all this.
    """

    name: str
    path: Path
    text: str
    speaker: int
    where: str


@dataclass(frozen=True)
class Manifest:
    """folder: where everything lies. speakers: number -> what the manifest calls that speaker.

    problems: lines that say nothing usable; the rest is in `recordings`, in order.
    """

    folder: Path
    source: str
    recordings: tuple[Recording, ...]
    speakers: Mapping[int, str]
    problems: tuple[ValidationIssue, ...]


@dataclass(frozen=True)
class _Row:
    """A line before its speaker has a number; speaker is None where none is named."""

    where: str
    file: str
    text: str
    speaker: str | None
    name: str | None = None


def read_manifest(folder: Path) -> Manifest:
    """Find out what a folder of recordings holds. Raises RecordingsError where it has no layout that is known."""
    if not folder.is_dir():
        raise RecordingsError(f"{folder}: there is no such folder")
    found = [name for name in METADATA if (folder / name).is_file()]
    if len(found) > 1:
        raise RecordingsError(f"{folder}: has {' and '.join(found)}; keep the one that counts")
    if found:
        source, rows = found[0], _rows_of(folder / found[0])
    else:
        source, rows = "NAME.txt", _rows_beside(folder)
    good: list[_Row] = []
    problems: list[ValidationIssue] = []
    for row in rows:
        if isinstance(row, _Row):
            good.append(row)
        else:
            problems.append(row)
    if not good and not problems:
        raise RecordingsError(
            f"{folder}: holds no recordings. Put them there ({', '.join(SUFFIXES[:5])} …) with a NAME.txt beside each "
            "NAME.wav, or with a metadata.csv that begins with the line file,text"
        )
    numbers = _numbered([row.speaker for row in good])
    recordings = tuple(
        Recording(row.name or row.file, find_audio(folder, row.file), row.text, numbers[row.speaker], row.where)
        for row in good
    )
    spoken = {recording.speaker for recording in recordings}
    speakers = {number: name or str(number) for name, number in numbers.items() if number in spoken}
    return Manifest(folder, source, recordings, speakers, tuple(problems))


def find_audio(folder: Path, file: str) -> Path:
    """The recording that a line means by `file`: a path, or a name to which wavs/ and a suffix are to be added."""
    suffixes = ("", *SUFFIXES)
    candidates = [base / f"{file}{suffix}" for base in (folder, folder / "wavs") for suffix in suffixes]
    return next((path for path in candidates if path.is_file()), folder / file)


# ---- the layouts, each as rows and, in the place of those that cannot be read, problems


def _rows_of(path: Path) -> Iterator[_Row | ValidationIssue]:
    data = path.read_bytes()
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise RecordingsError(f"{path}: is UTF-16; save it as UTF-8")
    # Bytes that are no UTF-8 become lone surrogates, so that each line with some can be named.
    text = data.decode("utf-8-sig", errors="surrogateescape")
    lines = text.splitlines() if path.suffix == ".jsonl" else text.replace("\r\n", "\n").split("\n")
    if path.suffix == ".jsonl":
        return _json_rows(path.name, lines)
    head = lines[0]
    for delimiter in ("|", "\t", ";", ","):
        columns = [cell.strip().strip('"').lower() for cell in head.split(delimiter)]
        if _first(_FILE + _NAME, columns) and _first(_TEXT, columns):
            return _table_rows(path.name, lines, columns, delimiter)
    if "|" in head:
        return _ljspeech_rows(path.name, lines)
    raise RecordingsError(
        f"{path}, line 1: names no columns {_FILE[0]} and {_TEXT[0]}, as file,text,speaker would, and is no id|text"
    )


def _json_rows(source: str, lines: list[str]) -> Iterator[_Row | ValidationIssue]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{source}, line {number}"
        if (damage := _damage(line)) is not None:
            yield ValidationIssue(where, damage)
            continue
        try:
            cells = json.loads(line)
        except ValueError as error:
            yield ValidationIssue(where, f"is no JSON ({error}): write one object in each line")
            continue
        if not isinstance(cells, dict):
            yield ValidationIssue(where, f'is no object: write {{"{_FILE[0]}": "one.wav", "{_TEXT[0]}": "…"}}')
            continue
        yield _row(where, {str(key).lower(): value for key, value in cells.items()})


def _table_rows(source: str, lines: list[str], columns: list[str], delimiter: str) -> Iterator[_Row | ValidationIssue]:
    ends = (f"{line}\n" for line in lines)
    if delimiter in "|\t":  # where these stand between cells, nobody quotes: a quotation mark is part of the text
        table = csv.reader(ends, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    else:
        table = csv.reader(ends, delimiter=delimiter)
    began = 1
    try:
        for cells in table:
            where, began = f"{source}, line {began}", table.line_num + 1
            if not any(map(str.strip, cells)) or table.line_num == 1:
                continue
            if (damage := _damage("".join(cells).replace("\n", " "))) is not None:
                yield ValidationIssue(where, damage)
            elif any("\n" in cell.strip() for cell in cells):
                yield ValidationIssue(where, f"goes on to line {table.line_num}: a quotation mark is not closed")
            elif len(cells) > len(columns):
                yield ValidationIssue(
                    where, f"has {len(cells)} values for {len(columns)} columns: put a text with {delimiter} in quotes"
                )
            else:
                yield _row(where, dict(zip(columns, cells, strict=False)))
    except csv.Error as error:
        yield ValidationIssue(
            f"{source}, line {began}", f"cannot be read on from here ({error}): is a quotation mark not closed?"
        )


def _ljspeech_rows(source: str, lines: list[str]) -> Iterator[_Row | ValidationIssue]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{source}, line {number}"
        cells = line.split("|")
        if (damage := _damage(line)) is not None:
            yield ValidationIssue(where, damage)
        elif not 2 <= len(cells) <= 3:
            yield ValidationIssue(
                where, f"has {len(cells)} parts between |: it may be id|text or id|text|normalized text"
            )
        else:
            yield _row(where, {"id": cells[0], "text": cells[-1].strip() or cells[1]})


def _rows_beside(folder: Path) -> Iterator[_Row | ValidationIssue]:
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
            continue
        words = path.with_suffix(".txt")
        data = words.read_bytes() if words.is_file() else b""
        text = " ".join(data.decode("utf-8-sig", errors="surrogateescape").split())
        if (damage := _damage(text)) is not None:
            yield ValidationIssue(words.name, damage)
        else:
            yield _row(path.name, {"file": path.name, "text": text})


def _damage(line: str) -> str | None:
    """What makes a line something else than text; None if nothing does."""
    for place, character in enumerate(line, start=1):
        kind = unicodedata.category(character)
        if kind == "Cs":
            return "is not UTF-8: save the file as UTF-8"
        if kind == "Cc" and character != "\t":
            return f"has the control character U+{ord(character):04X} at character {place}: remove it"
    return None


# ---- cells


def _first(names: tuple[str, ...], cells: list[str] | Mapping[str, Any]) -> str | None:
    return next((name for name in names if name in cells), None)


def _row(where: str, cells: Mapping[str, Any]) -> _Row | ValidationIssue:
    """A row of named cells; what else it names is not ours."""
    values: dict[str, str | None] = {}
    for kind, names in (("file", _FILE), ("text", _TEXT), ("speaker", _SPEAKER), ("name", _NAME)):
        key = _first(names, cells)
        value = None if key is None else cells[key]
        whole_number = isinstance(value, int) and not isinstance(value, bool)
        if value is not None and not isinstance(value, str) and not (whole_number and kind in ("speaker", "name")):
            return ValidationIssue(where, f"its {key} is {value!r}: write it as a text in quotation marks")
        values[kind] = None if value is None else str(value).strip()
    file = values["file"] or values["name"]
    if not file:
        return ValidationIssue(where, f"names no recording: give it a {_FILE[0]}")
    speaker = values["speaker"] or None
    if speaker and (number := _NUMBER.fullmatch(speaker)) and int(number[1]) > HIGHEST_SPEAKER:
        return ValidationIssue(
            where, f"its speaker is {speaker}: a number may be from 0 to {HIGHEST_SPEAKER}, or take a name"
        )
    text = unicodedata.normalize("NFC", " ".join((values["text"] or "").split()))
    return _Row(where, file, text, speaker, values["name"] or None)


def _numbered(speakers: list[str | None]) -> dict[str | None, int]:
    """A number for every way to name a speaker: numbers as they stand, nobody in particular is 0, names in order."""
    numbers: dict[str | None, int] = {}
    for speaker in speakers:
        if speaker is None:
            numbers[speaker] = 0
        elif found := _NUMBER.fullmatch(speaker):
            numbers[speaker] = int(found[1])
    taken = set(numbers.values())
    free = (number for number in range(HIGHEST_SPEAKER + 1) if number not in taken)
    for speaker in speakers:
        if speaker not in numbers:
            try:
                numbers[speaker] = next(free)
            except StopIteration:
                raise RecordingsError(f"there are more than {HIGHEST_SPEAKER + 1} speakers: teach fewer") from None
    return numbers
