"""Validation reports every issue of a folder by file and accepts the remaining clips."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from training.dataset_validation import ValidationReport, validate_dataset
from training.manifest import read_manifest

from .synthetic_audio import RATE, speech, write_wav

WORDS = "These are the words."  # 20 characters: from 0.7 to 4.5 seconds


def write(folder: Path, name: str, text: str = WORDS, seed: int = 0, **options: float) -> None:
    write_wav(folder / name, speech(options.get("seconds", 2.0), seed=seed), int(options.get("rate", RATE)))
    (folder / name).with_suffix(".txt").write_text(text, encoding="utf-8")


def report_of(folder: Path) -> ValidationReport:
    return validate_dataset(read_manifest(folder))


def _missing(folder: Path) -> None:
    (folder / "metadata.csv").write_text(f"file,text\ngood.wav,{WORDS}\nbad.wav,{WORDS}\n")


def _outside(folder: Path) -> None:
    write_wav(folder.parent / "bad.wav", speech(2.0))
    (folder / "metadata.csv").write_text(f"file,text\ngood.wav,{WORDS}\n../bad.wav,{WORDS}\n")


def _linked_outside(folder: Path) -> None:
    (folder / "bad.txt").write_text(WORDS)
    (folder / "bad.wav").symlink_to(write_wav(folder.parent / "elsewhere.wav", speech(2.0)))


def _twice(folder: Path) -> None:
    (folder / "metadata.csv").write_text(f"id,file,text\nbad,good.wav,{WORDS}\nbad,good.wav,{WORDS}\n")


def _unreadable(folder: Path) -> None:
    (folder / "bad.txt").write_text(WORDS)
    (folder / "bad.wav").write_bytes(b"not sound")


def _silent(folder: Path) -> None:
    (folder / "bad.txt").write_text(WORDS)
    write_wav(folder / "bad.wav", np.zeros(2 * RATE, dtype=np.float32))


ERRORS: dict[str, Callable[[Path], None]] = {
    "does not exist": _missing,
    "is outside the folder": _outside,
    "bad.wav is outside the folder": _linked_outside,
    "has the same name as": _twice,
    "cannot be decoded": _unreadable,
    "is silent": _silent,
    "at least 0.5 s": lambda folder: write(folder, "bad.wav", seconds=0.4),
    "csm-serve cut": lambda folder: write(folder, "bad.wav", seconds=31.0),
    "has no transcript": lambda folder: write(folder, "bad.wav", " … "),
    "a lost character": lambda folder: write(folder, "bad.wav", "\ufffdber and out."),
    "its sample rate is 7000 Hz": lambda folder: write(folder, "bad.wav", rate=7000, seconds=0.6),
    "is not UTF-8": lambda folder: (write(folder, "bad.wav"), (folder / "bad.txt").write_bytes(b"caf\xe9"))[0],
}


@pytest.mark.parametrize("message", ERRORS)
def test_errors_are_reported_and_other_clips_are_usable(message: str, tmp_path: Path) -> None:
    folder = tmp_path / "recordings"
    write(folder, "good.wav", seed=1)
    ERRORS[message](folder)
    report = report_of(folder)
    (issue,) = report.issues
    assert issue.location.split()[0].startswith(("bad", "../bad"))
    assert message in str(issue)
    assert (report.errors, report.warnings) == (1, 0)
    assert [clip.recording.path.name for clip in report.clips] == ["good.wav"]


def _clipped(folder: Path) -> None:
    write(folder, "odd.wav")
    write_wav(folder / "odd.wav", np.clip(speech(2.0) * 10, -0.9, 0.9))


def _quiet(folder: Path) -> None:
    write(folder, "odd.wav")
    write_wav(folder / "odd.wav", speech(2.0) * 0.02)


def _late(folder: Path) -> None:
    write(folder, "odd.wav")
    write_wav(folder / "odd.wav", np.concatenate([np.zeros(2 * RATE, dtype=np.float32), speech(2.0)]))


WARNINGS: dict[str, Callable[[Path], None]] = {
    "is clipped": _clipped,
    "very quiet": _quiet,
    "begins with 2.0 s of silence": _late,
    "its sample rate is 16000 Hz": lambda folder: write(folder, "odd.wav", rate=16000, seed=7),
    "are words missing": lambda folder: write(folder, "odd.wav", "Yes.", seconds=5.0),
    "transcript of another clip": lambda folder: write(folder, "odd.wav", WORDS * 6),
    "is the same recording as good.wav": lambda folder: write(folder, "odd.wav", seed=1),
    "decoded with another encoding": lambda folder: write(
        folder, "odd.wav", "Ã\x9cber alles, fÃ¼r dich.".replace("\x9c", "œ")
    ),
}


@pytest.mark.parametrize("message", WARNINGS)
def test_warnings_are_reported_and_the_clip_is_usable(message: str, tmp_path: Path) -> None:
    write(tmp_path, "good.wav", seed=1)
    WARNINGS[message](tmp_path)
    report = report_of(tmp_path)
    (issue,) = report.issues
    assert issue.location == "odd.wav"
    assert message in issue.message
    assert (report.errors, report.warnings, len(report.clips)) == (0, 1, 2)


def test_unlisted_recordings_are_one_warning(tmp_path: Path) -> None:
    for number in range(8):
        write_wav(tmp_path / f"wavs/{number}.wav", speech(2.0, seed=number))
    (tmp_path / "metadata.csv").write_text(f"0|{WORDS}\n")
    (issue,) = report_of(tmp_path).issues
    listed = ", ".join(f"wavs/{number}.wav" for number in range(1, 6))
    assert str(issue) == f"warning: metadata.csv: does not list 7 recordings: {listed} …"


def test_issues_of_all_files_are_reported_with_a_summary(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write_wav(tmp_path / f"{name}.wav", speech(3.0, seed=ord(name)))
    write_wav(tmp_path / "short.wav", speech(0.1))
    lines = [f"a.wav,{WORDS},anna", f"b.wav,{WORDS},anna", f"c.wav,{WORDS},zoe", "short.wav,,zoe", "gone.wav,,", "x"]
    (tmp_path / "metadata.csv").write_text("\n".join(["file,text,speaker", *lines]))
    done: list[tuple[int, int]] = []
    report = validate_dataset(read_manifest(tmp_path), on_progress=lambda *progress: done.append(progress))
    assert [issue.location.split()[0] for issue in report.issues] == ["short.wav"] * 2 + ["gone.wav"] * 2 + ["x"] * 2
    assert done == [(number, 6) for number in range(1, 7)]
    assert report.seconds == pytest.approx(9.0, abs=0.01)
    assert report.summary() == [
        "3 clips can be used, 9 seconds; 6 errors, 0 warnings",
        "  speaker 0: 0 clips, 0 seconds",
        "  speaker 1 (anna): 2 clips, 6 seconds",
        "  speaker 2 (zoe): 1 clip, 3 seconds",
    ]
