"""Killed writers always leave a complete voice with its own transcript."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SECONDS = 600  # a busy machine needs minutes

pytestmark = pytest.mark.timeout(SECONDS + 60)


def run(mode: str, folder: Path) -> dict[str, object]:
    command = [sys.executable, "-m", "tests.app.voices.crashes", mode, str(folder / "store")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_a_change_killed_at_any_line_is_atomic(tmp_path: Path) -> None:
    seen = run("every-line", tmp_path)
    assert set(seen) == {"replace", "remove transcript", "change transcript", "delete", "add"}
    for counts in seen.values():
        assert isinstance(counts, dict)
        assert counts["old"] > 10  # killed before the change took effect
        assert counts["new"] > 5  # killed after it


def test_writers_killed_at_random_never_mix_up_transcripts(tmp_path: Path) -> None:
    seen = run("random", tmp_path)
    assert {"known", "survived"} <= set(seen)


def test_one_of_many_concurrent_adds_succeeds(tmp_path: Path) -> None:
    assert run("at-once", tmp_path) == {"0": 8, "9": 56}
