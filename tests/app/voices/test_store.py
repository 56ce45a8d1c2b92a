from __future__ import annotations

import os
import shutil
import threading
import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from app.errors import (
    PreloadedVoice,
    ServiceError,
    TooLarge,
    Unavailable,
    UndecodableAudio,
    UnknownVoice,
    Unprocessable,
    VoiceExists,
)
from app.voices import loader
from app.voices.folder import VoiceFolder
from app.voices.recording_decoder import DecodedRecording, VoiceDecoder
from app.voices.store import Voice, VoiceStore
from app.voices.transcript import find_transcript
from tests.app.voices.recordings import CONTAINERS, encode, recording, tone

AMY, BOB = recording("wav", pitch=220.0), recording("wav", pitch=330.0)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    preloaded, uploads = tmp_path / "preloaded", tmp_path / "uploads"
    preloaded.mkdir()
    return preloaded, uploads


@pytest.fixture
def store(folders: tuple[Path, Path]) -> VoiceStore:
    return VoiceStore(*folders)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The recordings passed to VoiceDecoder.decode."""
    seen: list[bytes] = []
    decode = VoiceDecoder.decode

    def spy(self: VoiceDecoder, data: bytes) -> DecodedRecording:
        seen.append(data)
        return decode(self, data)

    monkeypatch.setattr(VoiceDecoder, "decode", spy)
    return seen


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# ---- manually added files


def test_recordings_in_both_directories_are_listed(folders: tuple[Path, Path], store: VoiceStore) -> None:
    preloaded, uploads = folders
    (preloaded / "amy.wav").write_bytes(AMY)
    (preloaded / "amy.txt").write_text("Hello,\nI am Amy.\n")
    (uploads / "bob.mp3").write_bytes(recording("mp3"))
    (preloaded / "README.md").write_text("voices")
    (preloaded / ".hidden.wav").write_bytes(AMY)
    assert store.ids() == ["amy.wav", "bob.mp3"]
    amy, bob = store.get("amy.wav"), store.get("bob.mp3")
    assert amy.prompt.transcript == "Hello, I am Amy."
    assert amy.has_transcript
    assert amy.preloaded
    assert amy.seconds == amy.prompt.samples.size / 24_000 == 1.5
    assert amy.created.endswith("+00:00")
    assert not bob.has_transcript
    assert not bob.preloaded
    loaded = dict(VoiceStore(*folders).load_all())
    assert list(loaded) == ["amy.wav", "bob.mp3"]
    for voice, same in zip((amy, bob), loaded.values(), strict=True):
        assert isinstance(same, Voice)
        assert same.prompt.key == voice.prompt.key


def test_a_manual_change_takes_effect_immediately(folders: tuple[Path, Path], store: VoiceStore) -> None:
    path = folders[1] / "amy.wav"
    path.write_bytes(AMY)
    old = store.get("amy.wav")
    path.write_bytes(BOB)
    new = store.get("amy.wav")
    assert new.sha256 != old.sha256
    assert not np.array_equal(new.prompt.samples, old.prompt.samples)
    (folders[1] / "amy.txt").write_text("manually added")
    assert store.get("amy.wav").prompt.transcript == "manually added"
    (folders[1] / "amy.txt").unlink()
    assert store.get("amy.wav").prompt.transcript == ""
    path.unlink()
    assert store.ids() == []
    with pytest.raises(UnknownVoice):
        store.get("amy.wav")


def test_a_change_with_the_same_inode_size_and_mtime_takes_effect(
    folders: tuple[Path, Path], store: VoiceStore
) -> None:
    path = folders[1] / "amy.wav"
    path.write_bytes(AMY)
    before, old = path.stat(), store.get("amy.wav")
    assert len(AMY) == len(BOB)
    with path.open("r+b") as file:
        file.write(BOB)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (before.st_ino, before.st_size, before.st_mtime_ns) == (after.st_ino, after.st_size, after.st_mtime_ns)
    assert store.get("amy.wav").sha256 != old.sha256


def test_unchanged_files_are_neither_read_nor_decoded_again(
    folders: tuple[Path, Path], store: VoiceStore, decoded: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folders[1] / "amy.wav").write_bytes(AMY)
    voice = store.get("amy.wav")
    os.utime(folders[1] / "amy.wav")
    assert store.get("amy.wav").prompt is voice.prompt  # read again, with unchanged content
    monkeypatch.setattr(loader, "_STABLE_NS", -(10**12))  # every file is old enough
    cached = store.get("amy.wav")
    monkeypatch.setattr(os, "open", None)  # no file can be read
    assert store.get("amy.wav") is cached
    assert store.get("amy.wav").prompt is voice.prompt
    assert len(decoded) == 1


def test_concurrent_loads_decode_a_voice_once(
    folders: tuple[Path, Path], store: VoiceStore, decoded: list[bytes]
) -> None:
    (folders[1] / "amy.wav").write_bytes(AMY)
    prompts = []
    threads = [threading.Thread(target=lambda: prompts.append(store.get("amy.wav").prompt)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(decoded) == 1
    assert len(prompts) == 6
    assert len(set(map(id, prompts))) == 1


def test_the_cache_is_limited_in_bytes(folders: tuple[Path, Path], decoded: list[bytes]) -> None:
    store = VoiceStore(*folders, cache_bytes=2 * (36_000 * 4 + 1024))
    for name in ("a.wav", "b.wav", "c.wav"):
        (folders[1] / name).write_bytes(AMY)
    for name in ("a.wav", "b.wav", "a.wav", "c.wav", "a.wav"):
        store.get(name)
    assert len(decoded) == 3
    store.get("b.wav")  # the least recently used was evicted
    assert len(decoded) == 4


def test_invalid_files_are_not_listed_and_have_an_error(
    folders: tuple[Path, Path], store: VoiceStore, decoded: list[bytes]
) -> None:
    (folders[0] / "text.wav").write_text("not audio")
    (folders[0] / "broken.flac").write_bytes(b"fLaC" + bytes(1000))
    (folders[0] / "large.wav").write_bytes(recording("wav", seconds=1.5))
    (folders[0] / "latin.wav").write_bytes(AMY)
    (folders[0] / "latin.txt").write_bytes(b"caf\xe9")
    store = VoiceStore(*folders, max_upload_bytes=len(AMY))
    found = dict(store.load_all())
    assert set(found) == {"broken.flac", "large.wav", "latin.wav"}
    assert isinstance(found["broken.flac"], UndecodableAudio)
    assert isinstance(found["large.wav"], Voice)
    assert isinstance(found["latin.wav"], Unprocessable)
    assert store.ids() == ["large.wav"]  # without voices that failed to load
    for _ in range(2):
        with pytest.raises(UndecodableAudio, match=r"voice 'broken\.flac' cannot be used"):
            store.get("broken.flac")
    assert len(decoded) == 3
    (folders[0] / "latin.txt").write_text("café")
    assert store.get("latin.wav").prompt.transcript == "café"
    (folders[0] / "broken.flac").write_bytes(recording("flac"))
    assert store.get("broken.flac").seconds == 1.5
    assert store.ids() == ["broken.flac", "large.wav", "latin.wav"]


def test_a_file_over_max_upload_bytes_is_rejected(folders: tuple[Path, Path]) -> None:
    (folders[0] / "amy.wav").write_bytes(AMY)
    with pytest.raises(TooLarge, match="MAX_UPLOAD_MB"):
        VoiceStore(*folders, max_upload_bytes=1000).get("amy.wav")


def test_links_outside_the_directory_are_ignored(folders: tuple[Path, Path], store: VoiceStore, tmp_path: Path) -> None:
    (tmp_path / "secret.wav").write_bytes(AMY)
    (tmp_path / "secret.txt").write_text("secret")
    (folders[1] / "link.wav").symlink_to(tmp_path / "secret.wav")
    (folders[1] / "amy.wav").write_bytes(AMY)
    (folders[1] / "amy.txt").symlink_to(tmp_path / "secret.txt")
    (folders[1] / "again.wav").symlink_to("amy.wav")
    assert store.ids() == ["again.wav", "amy.wav"]
    assert store.get("amy.wav").prompt.transcript == ""
    for change in (store.get, store.delete):
        with pytest.raises(UnknownVoice):
            change("link.wav")
    with pytest.raises(VoiceExists):
        store.add("link.wav", BOB)
    assert (tmp_path / "secret.wav").read_bytes() == AMY


# ---- ids


@pytest.mark.parametrize(
    "voice_id",
    [
        "",
        ".",
        "..",
        "../amy.wav",
        "/etc/passwd",
        "amy/../amy.wav",
        ".amy.wav",
        "amy.wav\0",
        "amy.wav\n",
        "a" * 129,
        "amy.txt",
    ],
)
def test_invalid_ids_are_rejected(voice_id: str, folders: tuple[Path, Path], store: VoiceStore) -> None:
    (folders[1] / "amy.wav").write_bytes(AMY)
    (folders[1] / "amy.txt").write_text("hello")
    (folders[1].parent / "amy.wav").write_bytes(AMY)
    before = contents(folders[1])
    with pytest.raises(Unprocessable, match="voice_id"):
        store.add(voice_id, BOB)
    for call in (store.get, store.delete, lambda each: store.replace(each, BOB)):
        with pytest.raises(UnknownVoice):
            call(voice_id)
    assert contents(folders[1]) == before


def test_ids_of_built_in_speakers_are_reserved(store: VoiceStore) -> None:
    with pytest.raises(Unprocessable, match="speaker"):
        store.add("speaker_0", AMY)


def test_a_stem_finds_the_only_matching_voice(folders: tuple[Path, Path], store: VoiceStore) -> None:
    (folders[1] / "amy.wav").write_bytes(AMY)
    (folders[1] / "amy.notes").write_text("not audio, so not ambiguous")
    assert store.get("amy").voice_id == "amy.wav"
    (folders[1] / "amy.mp3").write_bytes(recording("mp3"))
    with pytest.raises(UnknownVoice, match=r"amy\.mp3, amy\.wav"):
        store.get("amy")
    (folders[0] / "amy.flac").write_bytes(recording("flac"))
    assert store.get("amy").voice_id == "amy.flac"  # preloaded voices take precedence
    for change in (store.delete, lambda each: store.replace(each, BOB)):
        with pytest.raises(UnknownVoice):
            change("amy")  # changes need the full id


def test_a_preloaded_voice_cannot_be_changed(folders: tuple[Path, Path], store: VoiceStore) -> None:
    (folders[0] / "amy.wav").write_bytes(AMY)
    for voice_id in ("amy.wav", "AMY.wav", "amy"):
        with pytest.raises(VoiceExists, match="preloaded"):
            store.add(voice_id, BOB)
    with pytest.raises(PreloadedVoice):
        store.replace("amy.wav", BOB)
    with pytest.raises(PreloadedVoice):
        store.delete("amy.wav")
    (folders[1] / "amy.wav").write_bytes(BOB)  # added manually
    assert store.get("amy.wav").preloaded
    assert store.ids() == ["amy.wav"]
    store.add("amy.mp3", recording("mp3"))
    assert store.get("amy").voice_id == "amy.wav"


# ---- uploads


@pytest.mark.parametrize("kind", CONTAINERS)
def test_an_upload_is_stored_byte_for_byte(kind: str, folders: tuple[Path, Path], store: VoiceStore) -> None:
    added = store.add(f"amy.{kind}", recording(kind), " Hello\nthere. ")
    assert (folders[1] / f"amy.{kind}").read_bytes() == recording(kind)
    assert store.ids() == [f"amy.{kind}"]
    assert added.prompt.transcript == "Hello there."
    found = VoiceStore(*folders).get(f"amy.{kind}")  # as in another worker
    assert found.sha256 == added.sha256
    assert found.prompt.key == added.prompt.key


def test_an_id_needs_no_extension(folders: tuple[Path, Path], store: VoiceStore) -> None:
    store.add("amy", AMY, "hello")
    store.add("v1.2", BOB)
    assert store.ids() == ["amy", "v1.2"]
    assert VoiceStore(*folders).get("amy").prompt.transcript == "hello"


def test_an_id_of_another_script_is_one_id_in_both_forms_of_unicode(
    folders: tuple[Path, Path], store: VoiceStore
) -> None:
    name = "Stimme-ä (1).wav"
    decomposed = unicodedata.normalize("NFD", name)
    assert store.add(decomposed, AMY, "hallo").voice_id == name
    for same in (name, decomposed, "stimme-Ä (1).wav"):
        with pytest.raises(VoiceExists):
            store.add(same, BOB)
    assert store.ids() == [name]
    assert store.get(decomposed).prompt.transcript == "hallo"
    assert store.get(unicodedata.normalize("NFD", "Stimme-ä (1)")).voice_id == name
    store.replace(decomposed, BOB, "anders")
    assert store.get(name).prompt.transcript == "anders"
    store.delete(decomposed)
    assert list(contents(folders[1])) == [".lock"]


def test_files_named_in_the_decomposed_form_are_voices(folders: tuple[Path, Path], store: VoiceStore) -> None:
    uploads = folders[1]
    name = "Stimme-ä.wav"
    (uploads / unicodedata.normalize("NFD", name)).write_bytes(AMY)
    (uploads / unicodedata.normalize("NFD", "Stimme-ä.txt")).write_text("vom Mac")
    assert store.ids() == [name]
    voice = store.get(name)
    assert (voice.voice_id, voice.prompt.transcript) == (name, "vom Mac")
    store.replace(name, BOB, "neu")
    assert store.get("Stimme-ä").prompt.transcript == "neu"
    store.delete(name)
    assert set(contents(uploads)) == {".lock"}


def test_a_faint_upload_prompts_as_a_loud_one(folders: tuple[Path, Path], store: VoiceStore) -> None:
    loud = tone(3, 24_000)
    faint = loud * 10 ** (-50 / 20)
    prompts = [
        store.add(f"{name}.wav", encode(samples, "wav", "pcm_f32le", 24_000), "hello").prompt
        for name, samples in (("loud", loud), ("faint", faint))
    ]
    assert np.allclose(prompts[0].samples, prompts[1].samples, atol=1e-4)
    assert np.abs(prompts[1].samples).max() > 0.1
    again = VoiceStore(*folders).get("faint.wav")  # as in another worker: prepared again, and the same
    assert again.prompt.key == prompts[1].key


def test_an_uploads_quality_problems_are_told(store: VoiceStore) -> None:
    quiet = np.zeros((1, 3 * 24_000), np.float32)
    recorded = np.concatenate([quiet, np.clip(10 * tone(2, 24_000), -1, 1), quiet], axis=1)
    voice = store.add("amy.wav", encode(recorded, "wav", "pcm_s16le", 24_000))
    for word in ("clipped", "begins with 3.0 s of silence", "ends with 3.0 s of silence", "no transcript"):
        assert any(word in each for each in voice.warnings), voice.warnings
    assert voice.seconds == 8
    assert voice.prompt.seconds < 3
    (store._uploads.path / "amy.txt").write_text("its words")
    assert not any("transcript" in each for each in store.get("amy.wav").warnings)


def test_the_message_about_an_invalid_id_gives_one_to_send(store: VoiceStore) -> None:
    with pytest.raises(Unprocessable, match=r"letters and digits of any script.*for example 'my-voice\.wav'"):
        store.add("my:voice.wav", AMY)


def test_an_added_voice_is_decoded_once(store: VoiceStore, decoded: list[bytes]) -> None:
    store.add("amy.wav", AMY)
    store.get("amy.wav")
    assert decoded == [AMY]


def test_adding_an_existing_voice_fails(folders: tuple[Path, Path], store: VoiceStore) -> None:
    store.add("amy.wav", AMY, "hello")
    before = contents(folders[1])
    for voice_id in ("amy.wav", "Amy.WAV"):
        with pytest.raises(VoiceExists, match="PUT"):
            store.add(voice_id, BOB, "other")
    assert contents(folders[1]) == before


def test_a_replaced_voice_is_reloaded_by_every_worker(folders: tuple[Path, Path], store: VoiceStore) -> None:
    other = VoiceStore(*folders)
    store.add("amy.wav", AMY, "hello")
    old = other.get("amy.wav")
    store.replace("amy.wav", BOB, "good bye")
    new = other.get("amy.wav")
    assert new.sha256 != old.sha256
    assert new.prompt.transcript == "good bye"
    assert not store.replace("amy.wav", BOB).has_transcript
    assert not other.get("amy.wav").has_transcript
    assert len(contents(folders[1])) == 3  # recording, sidecar, lock
    with pytest.raises(UnknownVoice):
        store.replace("bob.wav", BOB)


def test_a_voice_replaced_during_a_read_is_read_again(
    folders: tuple[Path, Path], store: VoiceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add("amy.wav", AMY, "hello")
    replaced: list[str] = []

    def find_late(folder: VoiceFolder, name: str, sha256: str) -> str:
        """Another worker replaces both files after the recording has been read and before its transcript is."""
        if not replaced:
            replaced.append(sha256)
            (folders[1] / "bob.wav").write_bytes(BOB)
            os.rename(folders[1] / "bob.wav", folders[1] / "amy.wav")
            (folders[1] / "amy.txt").write_text("good bye")
            folder.remove_sidecars("amy.wav")
        return find_transcript(folder, name, sha256)

    monkeypatch.setattr(loader, "find_transcript", find_late)
    voice = VoiceStore(*folders).get("amy.wav")
    assert voice.sha256 not in replaced
    assert np.array_equal(voice.prompt.samples, store.get("amy.wav").prompt.samples)
    assert voice.prompt.transcript == "good bye"


def test_a_deleted_voice_is_unknown_to_every_worker(folders: tuple[Path, Path], store: VoiceStore) -> None:
    other = VoiceStore(*folders)
    store.add("amy.wav", AMY, "hello")
    (folders[1] / "bob.wav").write_bytes(BOB)
    (folders[1] / "bob.txt").write_text("I am Bob")
    other.get("amy.wav")
    for voice_id in ("amy.wav", "bob.wav"):
        store.delete(voice_id)
        for each in (store, other):
            with pytest.raises(UnknownVoice):
                each.get(voice_id)
    assert set(contents(folders[1])) == {".lock"}
    assert not store.add("amy.wav", AMY).has_transcript


def test_voices_with_the_same_stem_have_separate_uploads(folders: tuple[Path, Path], store: VoiceStore) -> None:
    (folders[1] / "amy.txt").write_text("manually added")
    (folders[1] / "amy.flac").write_bytes(recording("flac"))
    store.add("amy.wav", AMY, "of the wav")
    store.add("amy.mp3", recording("mp3"))
    words = {voice_id: store.get(voice_id).prompt.transcript for voice_id in store.ids()}
    assert words == {"amy.flac": "manually added", "amy.mp3": "", "amy.wav": "of the wav"}
    store.delete("amy.wav")
    assert store.get("amy.flac").prompt.transcript == "manually added"
    store.delete("amy.mp3")
    store.delete("amy.flac")
    assert set(contents(folders[1])) == {".lock"}  # the shared transcript is deleted with the last of them


def test_a_manually_replaced_upload_loses_its_transcript(folders: tuple[Path, Path], store: VoiceStore) -> None:
    store.add("amy.wav", AMY, "hello")
    shutil.copy(folders[1] / "amy.wav", folders[1] / "bob.wav")
    (folders[1] / "amy.wav").write_bytes(BOB)
    assert not store.get("amy.wav").has_transcript
    assert not store.get("bob.wav").has_transcript
    (folders[1] / "amy.wav").write_bytes(AMY)
    assert store.get("amy.wav").prompt.transcript == "hello"


@pytest.mark.parametrize(
    ("data", "transcript"), [(b"junk", ""), (b"", ""), (AMY[:30_000], ""), (AMY, "a\0b"), (AMY, "a" * 2001)]
)
def test_a_rejected_upload_leaves_no_files(
    data: bytes, transcript: str, folders: tuple[Path, Path], store: VoiceStore
) -> None:
    store.add("bob.wav", BOB, "hello")
    before = contents(folders[1])
    for change in (store.add, store.replace):
        with pytest.raises(ServiceError) as refused:
            change("amy.wav" if change == store.add else "bob.wav", data, transcript)
        assert refused.value.status in (400, 413, 415, 422)
    assert contents(folders[1]) == before
    assert store.get("bob.wav").prompt.transcript == "hello"


def test_a_disk_error_leaves_no_files(
    folders: tuple[Path, Path], store: VoiceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(folders[1])

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for name in ("fsync", "link"):
        monkeypatch.setattr(os, name, full)
        with pytest.raises(Unavailable, match="No space left on device"):
            store.add("amy.wav", AMY, "hello")
        monkeypatch.undo()
        assert contents(folders[1]) == before
    assert store.add("amy.wav", AMY).voice_id == "amy.wav"


def test_preloaded_voices_work_without_an_upload_directory(
    folders: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folders[0] / "amy.wav").write_bytes(AMY)
    (tmp_path / "file").write_text("in the way")
    store = VoiceStore(folders[0], tmp_path / "file" / "uploads")
    assert "VOICES_DIR" in caplog.text
    assert store.get("amy").voice_id == "amy.wav"
    with pytest.raises(Unavailable, match="VOICES_DIR"):
        store.add("bob.wav", BOB)


def test_stale_temporary_files_are_removed_at_startup(folders: tuple[Path, Path], store: VoiceStore) -> None:
    stale, young = ".upload-0123456789abcdef.tmp", ".upload-fedcba9876543210.tmp"
    for name in (stale, young):
        (folders[1] / name).write_bytes(AMY)
    hours_ago = time.time() - 7200
    os.utime(folders[1] / stale, (hours_ago, hours_ago))
    assert store.ids() == []
    VoiceStore(*folders)
    assert set(contents(folders[1])) == {young, ".lock"}


def test_a_fault_with_one_voice_leaves_the_others(
    folders: tuple[Path, Path], store: VoiceStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store.add("amy.wav", AMY)
    store.add("bob.wav", BOB)
    prepare = loader.prepare
    prepared: list[object] = []

    def fail_first(decoded: DecodedRecording) -> object:
        prepared.append(decoded)
        if len(prepared) == 1:
            raise AttributeError("no attribute 'metadata'")
        return prepare(decoded)

    monkeypatch.setattr(loader, "prepare", fail_first)
    found = dict(VoiceStore(*folders).load_all())
    assert str(found["amy.wav"]) == "it cannot be prepared: the log has the reason"
    assert isinstance(found["bob.wav"], Voice)
    (line,) = [each for each in caplog.records if each.levelname == "ERROR"]
    assert line.getMessage() == "voice amy.wav cannot be prepared"
    assert "no attribute 'metadata'" in str(line.exc_info)
