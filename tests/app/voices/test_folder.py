from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from app.voices.folder import VoiceFolder


def test_only_visible_regular_files_inside_the_directory_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "voices"
    (path / "sub").mkdir(parents=True)
    (tmp_path / "outside.wav").write_bytes(b"x")
    for name in ("amy.wav", ".hidden.wav", ".upload-0123456789abcdef.tmp", "amy.txt", "with space.wav", "sub/in.wav"):
        (path / name).write_bytes(b"x")
    (path / "out.wav").symlink_to(tmp_path / "outside.wav")
    (path / "up.wav").symlink_to("../outside.wav")
    (path / "dangling.wav").symlink_to("nothing.wav")
    (path / "loop.wav").symlink_to("loop.wav")
    (path / "in.wav").symlink_to("sub/in.wav")
    os.mkfifo(path / "pipe.wav")
    folder = VoiceFolder(path)
    assert folder.voice_ids() == ["amy.wav", "in.wav", "with space.wav"]
    assert all(folder.read(name, 9) is None for name in ("out.wav", "up.wav", "loop.wav", "pipe.wav", "sub"))
    found = folder.read("in.wav", 9)
    assert found is not None
    assert found[1] == b"x"


def test_a_missing_directory_is_empty(tmp_path: Path) -> None:
    folder = VoiceFolder(tmp_path / "none")
    assert folder.voice_ids() == []
    assert folder.stat_file("amy.wav") is None
    assert folder.read("amy.wav", 9) is None


def test_put_new_never_replaces_a_file(tmp_path: Path) -> None:
    folder = VoiceFolder(tmp_path)
    with folder.staged(b"first") as staged:
        folder.put_new(staged, "amy.wav")
    with folder.staged(b"second") as staged, pytest.raises(FileExistsError):
        folder.put_new(staged, "amy.wav")
    assert os.listdir(tmp_path) == ["amy.wav"]
    assert (tmp_path / "amy.wav").read_bytes() == b"first"
    with folder.staged(b"third") as staged:
        folder.put(staged, "amy.wav")
    assert os.listdir(tmp_path) == ["amy.wav"]
    assert (tmp_path / "amy.wav").read_bytes() == b"third"


def test_only_stale_temporary_files_are_removed(tmp_path: Path) -> None:
    old = {
        ".upload-0123456789abcdef.tmp",
        f".gone.wav.{'a' * 64}.json",
    }
    not_temporary = {
        "amy.wav",
        f".amy.wav.{'a' * 64}.json",
        ".upload-mine.tmp",
        ".gitkeep",
        "upload-0123456789abcdef.tmp",
    }
    for name in old | not_temporary:
        (tmp_path / name).write_bytes(b"x")
        os.utime(tmp_path / name, (1e9, 1e9))
    young = {".upload-fedcba9876543210.tmp", f".gone.wav.{'b' * 64}.json"}
    for name in young:
        (tmp_path / name).write_bytes(b"x")
    assert set(VoiceFolder(tmp_path).remove_stale_files()) == old
    assert set(os.listdir(tmp_path)) == not_temporary | young | {".lock"}


def test_a_file_under_the_decomposed_form_of_a_name_is_that_file(tmp_path: Path) -> None:
    folder, name = VoiceFolder(tmp_path), "Stimme-ä.wav"
    (tmp_path / unicodedata.normalize("NFD", name)).write_bytes(b"from a Mac")
    (tmp_path / os.fsdecode(b"\xff.wav")).write_bytes(b"not UTF-8")
    assert folder.voice_ids() == [name]
    assert folder.stat_file(name) is not None
    found = folder.read(name, 99)
    assert found is not None
    assert found[1] == b"from a Mac"
    with folder.staged(b"new") as staged:
        folder.put(staged, name)  # replaces it, rather than making a second file of the same name
    assert len(os.listdir(tmp_path)) == 2
    folder.remove(name)
    assert folder.voice_ids() == []
