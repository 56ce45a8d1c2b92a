"""Codes are encoded once per recording and codec, survive interruptions, and read back unchanged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine import SAMPLE_RATE, EngineConfig, load_encoder, random_checkpoint
from engine.types import FRAME_SAMPLES, Codes, Samples
from training.audio import read_audio
from training.codes import PrepareResult, prepare_codes, read_codec, read_codes
from training.dataset_validation import validate_dataset
from training.errors import CodesError, RecordingsError
from training.manifest import read_manifest

from .synthetic_audio import speech, write_wav

TEXTS = {"one": "These are the words.", "two": "These are others, not the same.", "three": "And here is the third."}


class CountingEncoder:
    """Encoder whose codes are scaled samples, counting its calls."""

    codebooks = 2

    def __init__(self, fingerprint: str = "first", codebook_size: int = 2048, fails_at: int = 10**6) -> None:
        self.fingerprint, self.codebook_size, self.encoded, self._fails_at = fingerprint, codebook_size, 0, fails_at

    def encode(self, samples: Samples, sample_rate: int = SAMPLE_RATE) -> Codes:
        assert sample_rate == SAMPLE_RATE
        self.encoded += 1
        if self.encoded >= self._fails_at:
            raise KeyboardInterrupt
        frames = np.pad(samples, (0, -samples.size % FRAME_SAMPLES)).reshape(-1, FRAME_SAMPLES)
        codes = np.abs(frames[:, : self.codebooks] * self.codebook_size).astype(np.int64)
        codes[-1] = self.codebook_size - 1
        return codes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "recordings"
    for seed, name in enumerate(TEXTS):
        write_wav(folder / f"{name}.wav", speech(2.0 + 0.3 * seed, seed=seed))
    write_metadata(folder)
    return folder


def write_metadata(folder: Path, **changes: str | None) -> None:
    texts = {name: text for name, text in {**TEXTS, **changes}.items() if text is not None}
    lines = [f'{name}.wav,"{text}",{name[0]}' for name, text in texts.items()]
    (folder / "metadata.csv").write_text("\n".join(["file,text,speaker", *lines]))


def prepare(folder: Path, encoder: CountingEncoder) -> PrepareResult:
    report = validate_dataset(read_manifest(folder))
    return prepare_codes(report.clips, report.speakers, folder.parent / "out", encoder)


def files(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


@pytest.mark.parametrize("size", [2048, 70_000])
def test_codes_read_back_as_encoded(folder: Path, size: int) -> None:
    encoder = CountingEncoder(codebook_size=size)
    prepare(folder, encoder)
    examples = read_codes(folder.parent / "out")
    assert [(example.name, example.text, example.speaker) for example in examples] == [
        (f"{name}.wav", text, number) for name, text, number in zip(TEXTS, TEXTS.values(), [0, 1, 1], strict=True)
    ]
    for name, example in zip(TEXTS, examples, strict=True):
        assert example.codes.dtype == np.int64
        expected = encoder.encode(read_audio(folder / f"{name}.wav").samples)
        np.testing.assert_array_equal(example.codes, expected)
    assert read_codec(folder.parent / "out") == encoder.fingerprint


def test_prepare_with_the_engines_codec(folder: Path, tmp_path: Path) -> None:
    model = random_checkpoint.build_model(random_checkpoint.TINY)
    checkpoint = random_checkpoint.write_checkpoint(tmp_path / "checkpoint", model)
    encoder = load_encoder(EngineConfig(str(checkpoint), device="cpu"))
    report = validate_dataset(read_manifest(folder))
    prepare_codes(report.clips, report.speakers, tmp_path / "out", encoder)
    for name, example in zip(TEXTS, read_codes(tmp_path / "out"), strict=True):
        np.testing.assert_array_equal(example.codes, encoder.encode(read_audio(folder / f"{name}.wav").samples))


def test_a_second_run_encodes_only_changes(folder: Path) -> None:
    out = folder.parent / "out"
    assert prepare(folder, CountingEncoder()) == PrepareResult(3, 0, 0, 0, pytest.approx(6.9, abs=0.01))
    first = files(out)
    again = CountingEncoder()
    assert prepare(folder, again).reused == 3
    assert (again.encoded, files(out)) == (0, first)

    write_metadata(folder, two="Other words than before.")
    changed = prepare(folder, CountingEncoder())
    assert (changed.encoded, changed.reused, changed.retranscribed) == (0, 3, 1)
    assert read_codes(out)[1].text == "Other words than before."


def test_a_changed_recording_or_codec_is_encoded_again(folder: Path) -> None:
    out = folder.parent / "out"
    prepare(folder, CountingEncoder())
    first = files(out)
    write_wav(folder / "two.wav", speech(2.5, seed=9))
    write_metadata(folder, three=None)
    changed = prepare(folder, CountingEncoder())
    assert (changed.encoded, changed.reused, changed.removed) == (1, 1, 1)
    assert len(files(out).keys() & first.keys()) == 2  # the index and the unchanged clip's codes
    assert len(files(out)) == 3
    assert prepare(folder, CountingEncoder("second")).encoded == 2
    assert len(files(out)) == 3
    assert read_codec(out) == "second"


def test_an_interrupted_run_resumes(folder: Path) -> None:
    out = folder.parent / "out"
    with pytest.raises(KeyboardInterrupt):
        prepare(folder, CountingEncoder(fails_at=3))
    with pytest.raises(CodesError, match=r"index\.json: is missing"):
        read_codes(out)
    # Temporary files of an interrupted write.
    (out / "index.json.77.tmp").write_bytes(b"{")
    next((out / "codes").iterdir()).with_name(f"{'0' * 32}.safetensors.77.tmp").write_bytes(b"half")
    rest = CountingEncoder()
    assert (prepare(folder, rest).encoded, rest.encoded) == (1, 1)
    resumed = files(out)
    assert not [name for name in resumed if name.endswith(".tmp")]
    whole = folder.parent / "unbroken"
    report = validate_dataset(read_manifest(folder))
    prepare_codes(report.clips, report.speakers, whole, CountingEncoder())
    assert resumed == files(whole)


@pytest.mark.parametrize("damage", [b"", b"\x08\0\0\0\0\0\0\0{}", None])
def test_damaged_codes_are_reported_and_encoded_again(folder: Path, damage: bytes | None) -> None:
    out = folder.parent / "out"
    prepare(folder, CountingEncoder())
    good = files(out)
    broken = next((out / "codes").iterdir())
    broken.write_bytes(broken.read_bytes()[:-7] if damage is None else damage)
    with pytest.raises(CodesError, match=r"prepare"):
        read_codes(out)
    assert prepare(folder, CountingEncoder()).encoded == 1
    assert files(out) == good


def test_a_folder_with_other_files_is_refused(folder: Path) -> None:
    report = validate_dataset(read_manifest(folder))
    with pytest.raises(CodesError, match="other than prepared codes"):
        prepare_codes(report.clips, report.speakers, folder, CountingEncoder())
    assert sorted(files(folder)) == ["metadata.csv", "one.wav", "three.wav", "two.wav"]


@pytest.mark.parametrize("index", ["{", "[]", '{"format": 99}', '{"format": 1, "clips": [{"name": "a"}]}'])
def test_a_damaged_index_is_reported(folder: Path, index: str) -> None:
    out = folder.parent / "out"
    prepare(folder, CountingEncoder())
    (out / "index.json").write_text(index)
    with pytest.raises(CodesError, match=r"index\.json"):
        read_codes(out)


def test_a_recording_changed_after_validation_is_refused(folder: Path) -> None:
    report = validate_dataset(read_manifest(folder))
    write_wav(folder / "two.wav", speech(2.5, seed=9))
    with pytest.raises(RecordingsError, match="has changed"):
        prepare_codes(report.clips, report.speakers, folder.parent / "out", CountingEncoder())
