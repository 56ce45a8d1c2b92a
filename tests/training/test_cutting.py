"""Long recordings are split at pauses without losing samples; transcripts are kept where they still apply."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from training.audio import read_audio
from training.cutting import MIN_PIECE_SECONDS, cut_points, cut_recordings
from training.dataset_validation import validate_dataset
from training.errors import RecordingsError
from training.manifest import read_manifest

from .synthetic_audio import RATE, speech, write_wav


@pytest.mark.parametrize("max_seconds", [4.0, 6.0, 10.0, 40.0])
def test_pieces_fit_and_end_in_pauses(max_seconds: float) -> None:
    pauses = tuple(np.cumsum(np.random.default_rng(3).uniform(1.2, 1.9, 18)))
    seconds = pauses[-1] + 1.5
    cuts = cut_points(speech(seconds, pauses, 0.3), max_seconds)
    lengths = np.diff([0.0, *cuts, seconds])
    assert lengths.max() <= max_seconds
    assert lengths.min() >= MIN_PIECE_SECONDS
    assert all(min(abs(cut - pause) for pause in pauses) < 0.05 for cut in cuts)
    assert len(cuts) <= 2 * seconds / max_seconds  # pieces are not needlessly short


def test_a_long_pause_is_preferred_to_a_later_short_one() -> None:
    samples = speech(10.0, (4.0,), 0.5)
    samples[round(5.4 * RATE) : round(5.65 * RATE)] = 0
    assert cut_points(samples, 6.0) == [pytest.approx(4.0, abs=0.03)]


def test_speech_without_a_pause_is_refused() -> None:
    with pytest.raises(RecordingsError, match=r"no pause from 4\.0 to 9\.0 s"):
        cut_points(speech(20.0, (4.0,)), 5.0)


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "metadata.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_folder_is_split_into_a_new_one(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    whole = speech(9.0, (2.5, 4.0, 6.2))
    write_wav(old / "day one.wav", whole)
    write_wav(old / "short.wav", speech(2.0, seed=1))
    write_wav(old / "endless.wav", speech(9.0, seed=2))
    lines = ["day one.wav,All of it.,anna", "short.wav,A few words.,zoe", "endless.wav,On and on.,zoe"]
    (old / "metadata.csv").write_text("\n".join(["file,text,speaker", *lines]))
    cut = cut_recordings(read_manifest(old), new, 5.0)
    assert [issue.location for issue in cut.issues] == ["endless.wav"]
    rows = rows_of(new)
    assert [(row["file"], row["text"], row["speaker"], row["whole_text"]) for row in rows] == [
        ("day_one-001.wav", "", "anna", "All of it."),
        ("day_one-002.wav", "", "anna", ""),
        ("short.wav", "A few words.", "zoe", ""),
    ]
    assert (cut.pieces, cut.untranscribed) == (3, 2)
    pieces = np.concatenate([read_audio(new / row["file"]).samples for row in rows[:2]])
    np.testing.assert_allclose(pieces, whole, atol=2 / 32768)
    assert {path.name for path in tmp_path.iterdir()} == {"old", "new"}

    report = validate_dataset(read_manifest(new))  # missing transcripts are reported by `prepare`
    assert [issue.message for issue in report.issues] == ["has no transcript: add one"] * 2
    assert report.speakers == {0: "anna", 1: "zoe"}


def test_an_existing_folder_is_not_overwritten(tmp_path: Path) -> None:
    write_wav(tmp_path / "old/a.wav", speech(2.0))
    (tmp_path / "new").mkdir()
    (tmp_path / "new/metadata.csv").write_text("file,text\na.wav,Hours of work.\n")
    with pytest.raises(RecordingsError, match="name a new folder"):
        cut_recordings(read_manifest(tmp_path / "old"), tmp_path / "new")
    assert "Hours of work." in (tmp_path / "new/metadata.csv").read_text()


def test_a_failed_cut_leaves_no_files(tmp_path: Path) -> None:
    write_wav(tmp_path / "old/a.wav", speech(9.0))
    with pytest.raises(RecordingsError, match=r"a\.wav has no pause"):
        cut_recordings(read_manifest(tmp_path / "old"), tmp_path / "new", 5.0)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
