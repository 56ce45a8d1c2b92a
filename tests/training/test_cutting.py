"""Long recordings in pieces: cut in pauses, nothing lost, transcripts kept where they are still true."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from training.audio import read_audio
from training.cutting import LEAST_SECONDS, cut_points, cut_recordings
from training.dataset_validation import check
from training.errors import RecordingsError
from training.manifest import read_manifest

from .sounds import RATE, speech, write_wav


@pytest.mark.parametrize("longest", [4.0, 6.0, 10.0, 40.0])
def test_every_piece_fits_and_ends_in_a_pause(longest: float) -> None:
    pauses = tuple(np.cumsum(np.random.default_rng(3).uniform(1.2, 1.9, 18)))
    seconds = pauses[-1] + 1.5
    cuts = cut_points(speech(seconds, pauses, 0.3), longest)
    lengths = np.diff([0.0, *cuts, seconds])
    assert lengths.max() <= longest
    assert lengths.min() >= LEAST_SECONDS
    assert all(min(abs(cut - pause) for pause in pauses) < 0.05 for cut in cuts)
    assert len(cuts) <= 2 * seconds / longest  # no piece is shorter than it has to be


def test_a_long_pause_is_taken_before_a_late_one() -> None:
    samples = speech(10.0, (4.0,), 0.5)
    samples[round(5.4 * RATE) : round(5.65 * RATE)] = 0
    assert cut_points(samples, 6.0) == [pytest.approx(4.0, abs=0.03)]


def test_who_never_pauses_is_not_cut() -> None:
    with pytest.raises(RecordingsError, match=r"no pause from 4\.0 to 9\.0 s"):
        cut_points(speech(20.0, (4.0,)), 5.0)


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "metadata.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_folder_is_cut_into_a_new_one(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    whole = speech(9.0, (2.5, 4.0, 6.2))
    write_wav(old / "day one.wav", whole)
    write_wav(old / "short.wav", speech(2.0, seed=1))
    write_wav(old / "endless.wav", speech(9.0, seed=2))
    lines = ["day one.wav,All of it.,anna", "short.wav,A few words.,zoe", "endless.wav,On and on.,zoe"]
    (old / "metadata.csv").write_text("\n".join(["file,text,speaker", *lines]))
    cut = cut_recordings(read_manifest(old), new, 5.0)
    assert [problem.where for problem in cut.problems] == ["endless.wav"]
    rows = rows_of(new)
    assert [(row["file"], row["text"], row["speaker"], row["whole_text"]) for row in rows] == [
        ("day_one-001.wav", "", "anna", "All of it."),
        ("day_one-002.wav", "", "anna", ""),
        ("short.wav", "A few words.", "zoe", ""),
    ]
    assert (cut.pieces, cut.unwritten) == (3, 2)
    pieces = np.concatenate([read_audio(new / row["file"]).samples for row in rows[:2]])
    np.testing.assert_allclose(pieces, whole, atol=2 / 32768)
    assert {path.name for path in tmp_path.iterdir()} == {"old", "new"}

    report = check(read_manifest(new))  # what is left to do is told by the next command
    assert [problem.what for problem in report.problems] == ["has no transcript: write down what is said in it"] * 2
    assert report.speakers == {0: "anna", 1: "zoe"}


def test_transcripts_that_were_written_are_never_written_over(tmp_path: Path) -> None:
    write_wav(tmp_path / "old/a.wav", speech(2.0))
    (tmp_path / "new").mkdir()
    (tmp_path / "new/metadata.csv").write_text("file,text\na.wav,Hours of work.\n")
    with pytest.raises(RecordingsError, match="name a new folder"):
        cut_recordings(read_manifest(tmp_path / "old"), tmp_path / "new")
    assert "Hours of work." in (tmp_path / "new/metadata.csv").read_text()


def test_a_cut_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    write_wav(tmp_path / "old/a.wav", speech(9.0))
    with pytest.raises(RecordingsError, match=r"a\.wav has no pause"):
        cut_recordings(read_manifest(tmp_path / "old"), tmp_path / "new", 5.0)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
