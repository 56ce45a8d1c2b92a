from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from app.voices.speakers import SENTENCE, SpeakerVoices
from engine.fake_options import FakeOptions
from engine.testing import FakeEngine


class CountingEngine(FakeEngine):
    """Counts its calls of `generate`."""

    generated = 0

    def generate(self, request):  # type: ignore[no-untyped-def]
        self.generated += 1
        return super().generate(request)


@pytest.fixture
def fake() -> Iterator[CountingEngine]:
    engine = CountingEngine()
    yield engine
    engine.close()


def test_a_speaker_is_generated_once_and_stored(fake: CountingEngine, tmp_path: Path) -> None:
    first = SpeakerVoices(fake, tmp_path / "speakers", "model").get(3)
    assert (first.speaker, first.transcript, fake.generated) == (3, SENTENCE, 1)
    assert fake.prepared == [(first.key, 3)]
    again = SpeakerVoices(fake, tmp_path / "speakers", "model").get(3)
    assert again.key == first.key
    assert fake.generated == 1
    assert [each.suffix for each in (tmp_path / "speakers").iterdir()] == [".wav"]


def test_each_speaker_and_model_has_its_own_recording(fake: CountingEngine, tmp_path: Path) -> None:
    speakers = SpeakerVoices(fake, tmp_path, "model")
    keys = {speakers.get(0).key, speakers.get(1).key, SpeakerVoices(fake, tmp_path, "other").get(2).key}
    assert len(keys) == 3
    assert len(list(tmp_path.iterdir())) == 3


def test_concurrent_requests_generate_a_speaker_once(fake: CountingEngine, tmp_path: Path) -> None:
    speakers, found = SpeakerVoices(fake, tmp_path, "model"), []
    threads = [threading.Thread(target=lambda: found.append(speakers.get(0).key)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 8
    assert len(set(found)) == 1
    assert fake.generated == 1


@pytest.mark.parametrize("damage", [b"", b"RIFF", b"x" * 1000, None])
def test_a_damaged_recording_is_generated_again(fake: CountingEngine, tmp_path: Path, damage: bytes | None) -> None:
    first = SpeakerVoices(fake, tmp_path, "model").get(0)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-100] if damage is None else damage)
    assert SpeakerVoices(fake, tmp_path, "model").get(0).key == first.key
    assert SpeakerVoices(fake, tmp_path, "model").get(0).key == first.key
    assert fake.generated == 2


def test_speakers_are_cached_in_memory_if_the_directory_is_not_writable(fake: CountingEngine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    speakers = SpeakerVoices(fake, tmp_path / "file" / "below", "model")
    assert speakers.get(0) is speakers.get(0)
    assert fake.generated == 1


def test_a_recording_is_limited_to_max_voice_seconds(tmp_path: Path) -> None:
    fake = FakeEngine(options=FakeOptions(max_voice_seconds=2.0))
    prompt = SpeakerVoices(fake, tmp_path, "model").get(0)
    fake.close()
    assert prompt.seconds <= 2.0
    assert float(np.abs(prompt.samples).max()) > 0
