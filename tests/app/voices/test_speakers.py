from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from app.voices.speakers import SENTENCE, SpeakerVoices
from engine.testing import FakeEngine, FakeOptions


class Counting(FakeEngine):
    """Counts what it is asked to speak."""

    spoken = 0

    def generate(self, request):  # type: ignore[no-untyped-def]
        self.spoken += 1
        return super().generate(request)


@pytest.fixture
def fake() -> Iterator[Counting]:
    made = Counting()
    yield made
    made.close()


def test_a_speaker_is_made_once_and_kept(fake: Counting, tmp_path: Path) -> None:
    first = SpeakerVoices(fake, tmp_path / "kept", "model").get(3)
    assert (first.speaker, first.transcript, fake.spoken) == (3, SENTENCE, 1)
    assert fake.prepared == [(first.key, 3)]
    again = SpeakerVoices(fake, tmp_path / "kept", "model").get(3)
    assert again.key == first.key
    assert fake.spoken == 1
    assert [each.suffix for each in (tmp_path / "kept").iterdir()] == [".wav"]


def test_speakers_and_models_have_recordings_of_their_own(fake: Counting, tmp_path: Path) -> None:
    speakers = SpeakerVoices(fake, tmp_path, "model")
    keys = {speakers.get(0).key, speakers.get(1).key, SpeakerVoices(fake, tmp_path, "other").get(2).key}
    assert len(keys) == 3
    assert len(list(tmp_path.iterdir())) == 3


def test_many_who_ask_at_once_wait_for_one_maker(fake: Counting, tmp_path: Path) -> None:
    speakers, found = SpeakerVoices(fake, tmp_path, "model"), []
    threads = [threading.Thread(target=lambda: found.append(speakers.get(0).key)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 8
    assert len(set(found)) == 1
    assert fake.spoken == 1


@pytest.mark.parametrize("damage", [b"", b"RIFF", b"x" * 1000, None])
def test_a_damaged_recording_is_made_anew(fake: Counting, tmp_path: Path, damage: bytes | None) -> None:
    first = SpeakerVoices(fake, tmp_path, "model").get(0)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-100] if damage is None else damage)
    assert SpeakerVoices(fake, tmp_path, "model").get(0).key == first.key
    assert SpeakerVoices(fake, tmp_path, "model").get(0).key == first.key
    assert fake.spoken == 2


def test_where_nothing_can_be_written_memory_has_to_do(fake: Counting, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    speakers = SpeakerVoices(fake, tmp_path / "file" / "below", "model")
    assert speakers.get(0) is speakers.get(0)
    assert fake.spoken == 1


def test_a_recording_is_no_longer_than_the_engine_takes(tmp_path: Path) -> None:
    fake = FakeEngine(options=FakeOptions(max_voice_seconds=2.0))
    prompt = SpeakerVoices(fake, tmp_path, "model").get(0)
    fake.close()
    assert prompt.seconds <= 2.0
    assert float(np.abs(prompt.samples).max()) > 0
