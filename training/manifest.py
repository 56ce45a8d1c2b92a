"""Reads the manifest of a folder of recordings: files, transcripts and speakers.

Supported layouts:

    metadata.jsonl   {"file": "one.wav", "text": "…", "speaker": "anna"} on each line
    metadata.csv     a header (file,text,speaker), then one line per recording; delimiter , ; tab or |
    metadata.csv     LJSpeech: id|text|normalized text, with the recordings in wavs/
    NAME.txt         beside NAME.wav, for one speaker

`speaker` is optional: a number, which is kept, or a name, which gets the next free number.
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

METADATA_FILES = ("metadata.jsonl", "metadata.csv", "metadata.tsv")
MAX_SPEAKER = 999  # same limit as in the service's requests

# Column names of common data sets; the first of each is used in messages.
_FILE = ("file", "file_name", "filename", "audio", "audio_file", "audio_filepath", "path")
_TEXT = ("text", "transcript", "transcription", "sentence")
_SPEAKER = ("speaker", "speaker_name", "speaker_id")
_NAME = ("id", "name")
_NUMBER = re.compile(r"(?:speaker_)?(\d+)(?:\.0)?")  # spreadsheets turn 3 into 3.0


@dataclass(frozen=True)
class Recording:
    """One clip as listed in the manifest; its audio has not been read.

    name: stable between runs. text: transcript with white space normalized; empty if missing.
    speaker: the number in brackets before the text. where: file and line of the entry.
    """

    name: str
    path: Path
    text: str
    speaker: int
    where: str


@dataclass(frozen=True)
class Manifest:
    """The parsed manifest of a folder.

    speakers: number -> name in the manifest. issues: lines that cannot be used; the others are in `recordings`, in
    order.
    """

    folder: Path
    source: str
    recordings: tuple[Recording, ...]
    speakers: Mapping[int, str]
    issues: tuple[ValidationIssue, ...]


@dataclass(frozen=True)
class _Row:
    """A parsed line before speaker numbers are assigned; speaker is None if not given."""

    where: str
    file: str
    text: str
    speaker: str | None
    name: str | None = None


def read_manifest(folder: Path) -> Manifest:
    """Read a folder's manifest. Raises RecordingsError if it has no supported layout."""
    if not folder.is_dir():
        raise RecordingsError(f"{folder}: no such folder")
    found = [name for name in METADATA_FILES if (folder / name).is_file()]
    if len(found) > 1:
        raise RecordingsError(f"{folder}: contains {' and '.join(found)}; keep only one of them")
    if found:
        source, rows = found[0], _metadata_rows(folder / found[0])
    else:
        source, rows = "NAME.txt", _sidecar_rows(folder)
    valid: list[_Row] = []
    issues: list[ValidationIssue] = []
    for row in rows:
        if isinstance(row, _Row):
            valid.append(row)
        else:
            issues.append(row)
    if not valid and not issues:
        raise RecordingsError(
            f"{folder}: contains no recordings. Put them there ({', '.join(SUFFIXES[:5])} …) with a NAME.txt beside "
            "each NAME.wav, or with a metadata.csv whose header is file,text"
        )
    numbers = _assign_speaker_numbers([row.speaker for row in valid])
    recordings = tuple(
        Recording(row.name or row.file, find_audio(folder, row.file), row.text, numbers[row.speaker], row.where)
        for row in valid
    )
    used = {recording.speaker for recording in recordings}
    speakers = {number: name or str(number) for name, number in numbers.items() if number in used}
    return Manifest(folder, source, recordings, speakers, tuple(issues))


def find_audio(folder: Path, file: str) -> Path:
    """Resolve a manifest entry's `file`: a path, or a name to be completed with wavs/ and a suffix."""
    suffixes = ("", *SUFFIXES)
    candidates = [base / f"{file}{suffix}" for base in (folder, folder / "wavs") for suffix in suffixes]
    return next((path for path in candidates if path.is_file()), folder / file)


# ---- layouts: each yields rows, and an issue for every line that cannot be read


def _metadata_rows(path: Path) -> Iterator[_Row | ValidationIssue]:
    data = path.read_bytes()
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise RecordingsError(f"{path}: is UTF-16; save it as UTF-8")
    # Invalid UTF-8 becomes lone surrogates, so that every affected line can be reported.
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
        f"{path}, line 1: has no columns {_FILE[0]} and {_TEXT[0]} (such as file,text,speaker) and is not id|text"
    )


def _json_rows(source: str, lines: list[str]) -> Iterator[_Row | ValidationIssue]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{source}, line {number}"
        if (damage := _text_damage(line)) is not None:
            yield ValidationIssue(where, damage)
            continue
        try:
            cells = json.loads(line)
        except ValueError as error:
            yield ValidationIssue(where, f"is not JSON ({error}): write one object per line")
            continue
        if not isinstance(cells, dict):
            yield ValidationIssue(where, f'is not a JSON object: write {{"{_FILE[0]}": "one.wav", "{_TEXT[0]}": "…"}}')
            continue
        yield _row(where, {str(key).lower(): value for key, value in cells.items()})


def _table_rows(source: str, lines: list[str], columns: list[str], delimiter: str) -> Iterator[_Row | ValidationIssue]:
    ends = (f"{line}\n" for line in lines)
    if delimiter in "|\t":  # such files are not quoted: a quotation mark is part of the text
        table = csv.reader(ends, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    else:
        table = csv.reader(ends, delimiter=delimiter)
    began = 1
    try:
        for cells in table:
            where, began = f"{source}, line {began}", table.line_num + 1
            if not any(map(str.strip, cells)) or table.line_num == 1:
                continue
            if (damage := _text_damage("".join(cells).replace("\n", " "))) is not None:
                yield ValidationIssue(where, damage)
            elif any("\n" in cell.strip() for cell in cells):
                yield ValidationIssue(where, f"continues to line {table.line_num}: a quotation mark is not closed")
            elif len(cells) > len(columns):
                yield ValidationIssue(
                    where, f"has {len(cells)} values for {len(columns)} columns: quote texts that contain {delimiter}"
                )
            else:
                yield _row(where, dict(zip(columns, cells, strict=False)))
    except csv.Error as error:
        yield ValidationIssue(
            f"{source}, line {began}", f"cannot be parsed from here on ({error}): is a quotation mark not closed?"
        )


def _ljspeech_rows(source: str, lines: list[str]) -> Iterator[_Row | ValidationIssue]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{source}, line {number}"
        cells = line.split("|")
        if (damage := _text_damage(line)) is not None:
            yield ValidationIssue(where, damage)
        elif not 2 <= len(cells) <= 3:
            yield ValidationIssue(
                where, f"has {len(cells)} fields separated by |: expected id|text or id|text|normalized text"
            )
        else:
            yield _row(where, {"id": cells[0], "text": cells[-1].strip() or cells[1]})


def _sidecar_rows(folder: Path) -> Iterator[_Row | ValidationIssue]:
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
            continue
        words = path.with_suffix(".txt")
        data = words.read_bytes() if words.is_file() else b""
        text = " ".join(data.decode("utf-8-sig", errors="surrogateescape").split())
        if (damage := _text_damage(text)) is not None:
            yield ValidationIssue(words.name, damage)
        else:
            yield _row(path.name, {"file": path.name, "text": text})


def _text_damage(line: str) -> str | None:
    """Why a line is not valid text; None if it is."""
    for place, character in enumerate(line, start=1):
        kind = unicodedata.category(character)
        if kind == "Cs":
            return "is not UTF-8: save the file as UTF-8"
        if kind == "Cc" and character != "\t":
            return f"contains the control character U+{ord(character):04X} at position {place}: remove it"
    return None


# ---- cells


def _first(names: tuple[str, ...], cells: list[str] | Mapping[str, Any]) -> str | None:
    return next((name for name in names if name in cells), None)


def _row(where: str, cells: Mapping[str, Any]) -> _Row | ValidationIssue:
    """Build a row from named cells, ignoring unknown columns."""
    values: dict[str, str | None] = {}
    for kind, names in (("file", _FILE), ("text", _TEXT), ("speaker", _SPEAKER), ("name", _NAME)):
        key = _first(names, cells)
        value = None if key is None else cells[key]
        whole_number = isinstance(value, int) and not isinstance(value, bool)
        if value is not None and not isinstance(value, str) and not (whole_number and kind in ("speaker", "name")):
            return ValidationIssue(where, f"its {key} is {value!r}: write it as a quoted string")
        values[kind] = None if value is None else str(value).strip()
    file = values["file"] or values["name"]
    if not file:
        return ValidationIssue(where, f"names no recording: add its {_FILE[0]}")
    speaker = values["speaker"] or None
    if speaker and (number := _NUMBER.fullmatch(speaker)) and int(number[1]) > MAX_SPEAKER:
        return ValidationIssue(where, f"its speaker is {speaker}: use a number from 0 to {MAX_SPEAKER}, or a name")
    text = unicodedata.normalize("NFC", " ".join((values["text"] or "").split()))
    return _Row(where, file, text, speaker, values["name"] or None)


def _assign_speaker_numbers(speakers: list[str | None]) -> dict[str | None, int]:
    """Number every speaker: numbers are kept, no speaker is 0, names get the free numbers in order of appearance."""
    numbers: dict[str | None, int] = {}
    for speaker in speakers:
        if speaker is None:
            numbers[speaker] = 0
        elif found := _NUMBER.fullmatch(speaker):
            numbers[speaker] = int(found[1])
    taken = set(numbers.values())
    free = (number for number in range(MAX_SPEAKER + 1) if number not in taken)
    for speaker in speakers:
        if speaker not in numbers:
            try:
                numbers[speaker] = next(free)
            except StopIteration:
                raise RecordingsError(f"there are more than {MAX_SPEAKER + 1} speakers: use fewer") from None
    return numbers
