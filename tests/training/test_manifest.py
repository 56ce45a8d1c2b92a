"""Manifests of every layout, and the issues of unusable lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.errors import RecordingsError
from training.manifest import METADATA_FILES, Manifest, read_manifest

TEXTS = ["It is late.", 'She said "no", twice.', "Überall, auch hier."]
FILES = ["one.wav", "sub/two.flac", "three.wav"]


def folder_of(folder: Path, manifest: str | bytes, name: str = "metadata.csv", files: list[str] = FILES) -> Path:
    for file in files:
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (folder / name).write_bytes(manifest.encode() if isinstance(manifest, str) else manifest)
    return folder


def entries(manifest: Manifest) -> list[tuple[str, str]]:
    return [(recording.path.name, recording.text) for recording in manifest.recordings]


LAYOUTS = {
    "commas": (
        "metadata.csv",
        'file,text\none.wav,It is late.\nsub/two.flac,"She said ""no"", twice."\nthree.wav,"Überall, auch hier."\n',
    ),
    "semicolons": (
        "metadata.csv",
        'Text;File\nIt is late.;one.wav\n"She said ""no"", twice.";sub/two.flac\nÜberall, auch hier.;three.wav\n',
    ),
    "bars": (
        "metadata.csv",
        'audio_file|text\none.wav|It is late.\nsub/two.flac|She said "no", twice.\nthree.wav|Überall, auch hier.\n',
    ),
    "tabs": (
        "metadata.tsv",
        'path\tsentence\none.wav\tIt is late.\nsub/two.flac\tShe said "no", twice.\nthree.wav\tÜberall, auch hier.\n',
    ),
    "windows": (
        "metadata.csv",
        '\ufefffile,text\r\none.wav,It is late.\r\nsub/two.flac,"She said ""no"", twice."\r\n'
        'three.wav,"Überall,  auch hier."\r\n',
    ),
    "lines": (
        "metadata.jsonl",
        '{"file": "one.wav", "text": "It is late."}\n\n{"file_name": "sub/two.flac", "transcription": '
        '"She said \\"no\\", twice."}\n{"audio_filepath": "three.wav", "text": "\\u00dcberall, auch\\nhier."}',
    ),
}


@pytest.mark.parametrize(("name", "text"), LAYOUTS.values(), ids=LAYOUTS)
def test_all_layouts_give_the_same_entries(name: str, text: str, tmp_path: Path) -> None:
    manifest = read_manifest(folder_of(tmp_path, text, name))
    assert manifest.issues == ()
    assert entries(manifest) == [(Path(file).name, words) for file, words in zip(FILES, TEXTS, strict=True)]
    assert all(recording.path.is_file() for recording in manifest.recordings)
    assert [recording.speaker for recording in manifest.recordings] == [0, 0, 0]


def test_ljspeech_layout(tmp_path: Path) -> None:
    text = 'LJ001|"Dr. No|"Doctor No\nLJ002|No other form|\nLJ003|Two parts\n'
    folder = folder_of(tmp_path, text, files=["wavs/LJ001.wav", "wavs/LJ002.wav", "wavs/LJ003.flac"])
    manifest = read_manifest(folder)
    assert entries(manifest) == [
        ("LJ001.wav", '"Doctor No'),
        ("LJ002.wav", "No other form"),
        ("LJ003.flac", "Two parts"),
    ]
    assert [recording.name for recording in manifest.recordings] == ["LJ001", "LJ002", "LJ003"]


def test_sidecar_transcripts(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, " It is\nlate. ", "one.txt", ["one.wav", "two.MP3", ".hidden.wav", "cover.jpg"])
    assert entries(read_manifest(folder)) == [("one.wav", "It is late."), ("two.MP3", "")]


def test_speaker_numbers_are_kept_and_names_get_free_ones_in_order(tmp_path: Path) -> None:
    speakers = ["zoe", "1", "anna", "speaker_2", "zoe", "", "4.0"]
    lines = [f"{number}.wav,hello,{speaker}" for number, speaker in enumerate(speakers)]
    manifest = read_manifest(folder_of(tmp_path, "\n".join(["file,text,speaker", *lines]), files=[]))
    assert [recording.speaker for recording in manifest.recordings] == [3, 1, 5, 2, 3, 0, 4]
    assert {manifest.speakers[3], manifest.speakers[5]} == {"zoe", "anna"}
    more = read_manifest(folder_of(tmp_path, "\n".join(["file,text,speaker", *lines, "n.wav,hello,new"]), files=[]))
    assert {**more.speakers, **manifest.speakers} == more.speakers  # a new speaker does not renumber others


@pytest.mark.parametrize(
    ("name", "lines", "number", "message"),
    [
        ("metadata.csv", [b"file,text", b"one.wav,a,b"], 2, "3 values for 2 columns"),
        ("metadata.csv", [b"file,text", b",words"], 2, "names no recording"),
        ("metadata.csv", [b"file,text", b"three.wav,fine", b'one.wav,"open', b"two.wav,x"], 3, "quotation mark"),
        ("metadata.csv", [b"file,text", b"one.wav,caf\xe9"], 2, "not UTF-8"),
        ("metadata.csv", [b"file,text", b"one.wav,a\x00b"], 2, "control character U+0000"),
        ("metadata.csv", [b"file,text,speaker", b"one.wav,a,1000"], 2, "from 0 to 999"),
        ("metadata.csv", [b"LJ1|a", b"LJ2"], 2, "1 fields"),
        ("metadata.jsonl", [b'{"file": "three.wav"}', b"{", b'{"file": "one.wav"}'], 2, "not JSON"),
        ("metadata.jsonl", [b"[1]"], 1, "not a JSON object"),
        ("metadata.jsonl", [b'{"file": "one.wav", "text": 7}'], 1, "text is 7"),
    ],
)
def test_unusable_lines_are_reported(name: str, lines: list[bytes], number: int, message: str, tmp_path: Path) -> None:
    manifest = read_manifest(folder_of(tmp_path, b"\n".join(lines), name))
    (issue,) = manifest.issues
    assert issue.location == f"{name}, line {number}"
    assert message in issue.message
    assert issue.is_error


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "contains no recordings"),
        ({"metadata.csv": b"one,two\n"}, "has no columns file and text"),
        ({"metadata.csv": b""}, "has no columns"),
        ({"metadata.csv": "file,text".encode("utf-16")}, "UTF-16"),
        (dict.fromkeys(METADATA_FILES[:2], b"file,text\n"), "keep only one of them"),
    ],
)
def test_a_folder_without_a_supported_layout_is_refused(files: dict[str, bytes], message: str, tmp_path: Path) -> None:
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(RecordingsError, match=message):
        read_manifest(tmp_path)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordingsError, match="no such folder"):
        read_manifest(tmp_path / "elsewhere")
