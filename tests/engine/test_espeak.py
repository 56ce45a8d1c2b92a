"""EspeakEngine: intelligible speech, streaming, slot scheduling, cancellation and errors."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import (
    FALLBACK_MODEL,
    FRAME_SAMPLES,
    SAMPLE_RATE,
    AudioChunk,
    CheckpointError,
    DialogueTurn,
    Engine,
    EngineClosed,
    EngineConfig,
    EngineFailed,
    SpeechRequest,
    VoicePrompt,
    load_engine,
)
from engine.fallback.audio_slices import AudioSlicer
from engine.fallback.espeak_library import EspeakLibrary, Pcm
from engine.fallback.pitch import median_pitch
from engine.fallback.voices import HIGH, LOW, SPEAKERS, EspeakVoice, voice_of_recording
from engine.types import Samples

FOX = "The quick brown fox jumps over the lazy dog."


def engine_of(slots: int = 4, queue: int = 5) -> Engine:
    return load_engine(EngineConfig(model=FALLBACK_MODEL, slots=slots, audio_queue_slices=queue))


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = engine_of()
    yield engine
    engine.close()


def request(text: str = FOX, **values: object) -> SpeechRequest:
    return SpeechRequest(text=text, **values)  # type: ignore[arg-type]


def voiced_seconds(samples: Samples) -> float:
    """Seconds of audio above an RMS of 0.01, in windows of 10 ms."""
    windows = samples[: samples.size // 240 * 240].reshape(-1, 240)
    return float((np.sqrt((windows**2).mean(axis=1)) > 0.01).sum() * 0.01)


def tone(hertz: float, seconds: float = 2.0, rate: int = SAMPLE_RATE) -> Samples:
    """A tone with five harmonics, as a voiced sound has."""
    time = np.arange(int(seconds * rate)) / rate
    return sum(np.sin(2 * np.pi * hertz * n * time) / n for n in range(1, 6)).astype(np.float32) / 4


# ---- audio quality


def test_name_and_status(engine: Engine) -> None:
    assert engine.name == "espeak-ng"
    assert engine.sample_rate == SAMPLE_RATE
    status = engine.status()
    assert (status.engine, status.device, status.slots, status.error) == ("espeak-ng", "cpu", 4, None)


def test_speech_is_loud_and_does_not_clip(engine: Engine) -> None:
    samples = engine.generate(request()).samples
    assert samples.dtype == np.float32
    assert 0.02 < np.sqrt((samples**2).mean()) < 0.3
    assert np.abs(samples).max() < 1


def test_speech_has_the_spectrum_of_speech(engine: Engine) -> None:
    samples = engine.generate(request()).samples
    power = np.abs(np.fft.rfft(samples)) ** 2
    hertz = np.fft.rfftfreq(samples.size, 1 / SAMPLE_RATE)
    share = [power[(low <= hertz) & (hertz < high)].sum() / power.sum() for low, high in ((80, 4000), (11_100, 12_000))]
    assert share[0] > 0.9
    assert share[1] < 1e-4  # no aliases above the Nyquist frequency of 22,050 Hz


def test_duration_is_proportional_to_the_text(engine: Engine) -> None:
    once, three_times = (voiced_seconds(engine.generate(request(" ".join([FOX] * n))).samples) for n in (1, 3))
    assert 2.7 < three_times / once < 3.3


def test_a_speech_recogniser_understands_the_sentences(engine: Engine) -> None:
    recogniser = pytest.importorskip("pocketsphinx")
    sentences = [
        "the quick brown fox jumps over the lazy dog",
        "please close the window before you leave",
        "our train arrives at seven in the evening",
        "she bought fresh bread and butter",
        "the weather will be sunny tomorrow",
        "he lost his keys near the river",
        "we should paint the kitchen green",
        "my brother plays the guitar very well",
        "turn left after the second bridge",
        "the doctor will see you now",
    ]
    decoder = recogniser.Decoder(recogniser.Config(lm=None, loglevel="FATAL"))
    decoder.add_jsgf_string("choice", f"#JSGF V1.0; grammar g; public <s> = {' | '.join(sentences)};")
    decoder.activate_search("choice")
    recognised = [_recognise(decoder, engine.generate(request(sentence)).samples) for sentence in sentences]
    correct = [sentence == result for sentence, result in zip(sentences, recognised, strict=True)]
    assert sum(correct) >= 9, recognised


def _recognise(decoder: object, samples: Samples) -> str:
    silence = np.zeros(SAMPLE_RATE // 3, np.float32)
    frame = av.AudioFrame.from_ndarray(np.concatenate([silence, samples, silence])[None], format="flt", layout="mono")
    frame.sample_rate = SAMPLE_RATE
    resampler = av.AudioResampler(format="s16", layout="mono", rate=16_000)
    pieces = [piece.to_ndarray()[0] for each in (frame, None) for piece in resampler.resample(each)]
    decoder.start_utt()  # type: ignore[attr-defined]
    decoder.process_raw(np.concatenate(pieces).tobytes(), full_utt=True)  # type: ignore[attr-defined]
    decoder.end_utt()  # type: ignore[attr-defined]
    hypothesis = decoder.hyp()  # type: ignore[attr-defined]
    return hypothesis.hypstr if hypothesis else ""


# ---- reproducibility: repeated, streamed, concurrent


def test_equal_requests_give_equal_audio_after_other_requests(engine: Engine) -> None:
    first = engine.generate(request()).samples
    engine.generate(request("Something else entirely, in another voice.", speaker=3))
    np.testing.assert_array_equal(engine.generate(request()).samples, first)


def test_slice_size_does_not_change_the_audio(engine: Engine) -> None:
    text = f"{FOX} And then it sleeps, until the morning comes."
    whole = engine.generate(request(text, slice_frames=125, first_slice_frames=125)).samples
    small = engine.generate(request(text, slice_frames=1, first_slice_frames=1)).samples
    np.testing.assert_array_equal(small, whole)


def test_concurrent_requests_give_the_same_audio_as_single_ones(engine: Engine) -> None:
    requests = [request(f"{FOX} {FOX} Number {n}.", speaker=n, chunk_characters=50) for n in range(9)]
    alone = [engine.generate(each).samples for each in requests]

    async def read(each: SpeechRequest) -> Samples:
        async with engine.stream(each) as stream:
            return np.concatenate([chunk.samples async for chunk in stream])

    async def read_all() -> list[Samples]:
        return list(await asyncio.gather(*map(read, requests)))

    for expected, actual in zip(alone, asyncio.run(read_all()), strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_two_engines_share_the_library() -> None:
    engines = [engine_of() for _ in range(2)]
    results: list[Samples] = []
    threads = [
        threading.Thread(target=lambda each=each: results.append(each.generate(request(f"{FOX} {FOX} {FOX}")).samples))
        for each in engines
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for each in engines:
        each.close()
    np.testing.assert_array_equal(*results)


# ---- slices


def test_slices_grow_and_are_whole_frames(engine: Engine) -> None:
    chunks = list(engine.stream(request(slice_frames=5, first_slice_frames=1)))
    assert [chunk.codes.shape for chunk in chunks[:4]] == [(1, 0), (2, 0), (4, 0), (5, 0)]
    assert [chunk.samples.size for chunk in chunks[:4]] == [FRAME_SAMPLES * frames for frames in (1, 2, 4, 5)]


def test_chunks_carry_their_position_in_the_text(engine: Engine) -> None:
    chunks = list(engine.stream(request(f"{FOX} {FOX} {FOX}", chunk_characters=50)))
    ends = [chunk.text_chunk for chunk in chunks if chunk.ends_text_chunk]
    assert ends == [0, 1, 2]
    assert [chunk.ends_speech for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert all(chunk.in_last_text_chunk == (chunk.text_chunk == 2) for chunk in chunks)


@given(
    sizes=st.lists(st.lists(st.integers(0, 9000), max_size=6), min_size=1, max_size=3),
    first=st.integers(1, 6),
    slice_frames=st.integers(1, 6),
    max_frames=st.none() | st.integers(1, 12),
)
def test_slicing_keeps_every_sample_up_to_max_frames(
    sizes: list[list[int]], first: int, slice_frames: int, max_frames: int | None
) -> None:
    slicer = AudioSlicer(request(first_slice_frames=first, slice_frames=slice_frames, max_frames=max_frames))
    samples = np.arange(sum(map(sum, sizes)), dtype=np.float32)
    chunks: list[AudioChunk] = []
    start = 0

    def take_all() -> None:
        while (chunk := slicer.take()) is not None:
            chunks.append(chunk)

    for index, pieces in enumerate(sizes):
        is_last = index == len(sizes) - 1
        if slicer.needs_chunk:
            slicer.begin_chunk(is_last)
            for piece in pieces:
                slicer.push(samples[start : start + piece])
                start += piece
                take_all()
            slicer.end_chunk(is_last)
            take_all()
    joined = np.concatenate([chunk.samples for chunk in chunks])
    np.testing.assert_array_equal(joined, samples[: joined.size])
    assert [chunk.ends_speech for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    frames = sum(len(chunk.codes) for chunk in chunks)
    if max_frames is None or frames < max_frames:
        assert joined.size == samples.size
    else:
        assert frames == max_frames


@pytest.mark.parametrize("max_frames", [1, 2, 7])
def test_max_frames_is_exact(engine: Engine, max_frames: int) -> None:
    speech = engine.generate(request(max_frames=max_frames))
    assert speech.codes.shape == (max_frames, 0)
    assert speech.samples.size == max_frames * FRAME_SAMPLES
    np.testing.assert_array_equal(speech.samples, engine.generate(request()).samples[: speech.samples.size])


def test_ignore_stop_generates_max_frames(engine: Engine) -> None:
    speech = engine.generate(request("Yes.", max_frames=50, ignore_stop=True))
    assert len(speech.codes) == 50


# ---- long and unusual texts


def test_a_text_of_5000_characters_is_spoken_completely(engine: Engine) -> None:
    sentence = "Every part of this long text is spoken, from the first word to the last. "
    text = (sentence * 70)[:5000]
    long = engine.generate(request(text))
    short = engine.generate(request(sentence))
    assert long.seconds / short.seconds == pytest.approx(len(text) / len(sentence), rel=0.1)


def test_markup_is_spoken_literally(engine: Engine) -> None:
    plain = engine.generate(request("one two")).seconds
    pause = engine.generate(request("one <break time='5s'/> two"))
    assert voiced_seconds(pause.samples) > plain
    loud = engine.generate(request("\x0120A one \x01300S two")).samples
    np.testing.assert_array_equal(loud, engine.generate(request(" 20A one  300S two")).samples)


@pytest.mark.parametrize(
    "text", ["...", "!?", "\x00\x01", "\ud800", "\ue000", "[[h@loU]]", "नमस्ते", "日本語", "😀", "a" * 400]
)
def test_unusual_texts_end_normally(engine: Engine, text: str) -> None:
    chunks = list(engine.stream(request(text)))
    assert chunks[-1].ends_speech


@settings(max_examples=40, deadline=None)
@given(st.text(min_size=1, max_size=60).filter(lambda text: bool(text.strip())))
def test_any_text_ends_normally(engine: Engine, text: str) -> None:
    assert list(engine.stream(request(text)))[-1].ends_speech


# ---- voices


def test_the_speakers_are_distinct() -> None:
    assert len(set(SPEAKERS)) == len(SPEAKERS) == 10
    assert SPEAKERS[0].name == "en-us+f2"


@pytest.mark.parametrize("voice", SPEAKERS, ids=lambda voice: voice.variant)
def test_every_variant_has_the_pitch_of_the_table(engine: Engine, voice: EspeakVoice) -> None:
    hertz = median_pitch(engine.generate(request(f"{FOX} {FOX}", speaker=SPEAKERS.index(voice))).samples, SAMPLE_RATE)
    assert hertz == pytest.approx(voice.hertz, rel=0.08)


@pytest.mark.parametrize("hertz", [85, 120, 180, 230])
def test_a_recording_gets_a_voice_of_its_pitch(engine: Engine, hertz: float) -> None:
    speech = engine.generate(request(f"{FOX} {FOX}", voice=VoicePrompt(tone(hertz))))
    assert median_pitch(speech.samples, SAMPLE_RATE) == pytest.approx(hertz, rel=0.12)


@given(st.floats(62, 390), st.sampled_from([8000, 16_000, 24_000, 48_000]))
def test_pitch_is_measured(hertz: float, rate: int) -> None:
    assert median_pitch(tone(hertz, 0.5, rate), rate) == pytest.approx(hertz, rel=0.03)


@pytest.mark.parametrize(
    "samples", [np.zeros(24_000), np.zeros(10), np.random.default_rng(0).normal(0, 0.1, 24_000)], ids=str
)
def test_a_recording_without_voiced_speech_has_no_pitch_but_gets_a_voice(samples: np.ndarray) -> None:
    assert median_pitch(samples.astype(np.float32), SAMPLE_RATE) is None
    assert voice_of_recording(VoicePrompt(samples)) in SPEAKERS


def test_the_voice_of_a_recording_does_not_depend_on_its_transcript() -> None:
    samples = tone(200)
    assert voice_of_recording(VoicePrompt(samples)) == voice_of_recording(VoicePrompt(samples.copy(), "words"))


def test_recordings_of_equal_pitch_use_several_variants() -> None:
    noise = np.random.default_rng(0).normal(0, 1e-4, (20, 12_000))
    voices = {voice_of_recording(VoicePrompt(tone(200, 0.5) + each)).variant for each in noise.astype(np.float32)}
    assert voices <= {voice.variant for voice in HIGH}
    assert len(voices) > 2


def test_high_and_low_variants_differ_in_pitch() -> None:
    assert min(voice.hertz for voice in HIGH) > 1.5 * max(voice.hertz for voice in LOW)


# ---- slots, cancelling, closing


def wait_for(condition: threading.Event) -> None:
    assert condition.wait(timeout=60)


def settled(engine: Engine, active: int, queued: int) -> bool:
    """Wait until the engine reports these counts; False if it does not within 10 seconds."""
    for _ in range(2000):
        status = engine.status()
        if (status.active, status.queued) == (active, queued):
            return True
        threading.Event().wait(0.005)
    return False


def test_requests_beyond_the_slots_wait_in_fifo_order() -> None:
    engine = engine_of(slots=2, queue=1)
    long = request(" ".join([FOX] * 10))
    streams = [engine.stream(long) for _ in range(4)]
    assert settled(engine, active=2, queued=2)
    next(streams[0])
    next(streams[1])
    streams[0].close()
    next(streams[2])  # took the freed slot; the fourth still waits
    assert settled(engine, active=2, queued=1)
    streams[1].close()
    next(streams[3])
    assert settled(engine, active=2, queued=0)
    for stream in streams:
        stream.close()
    assert settled(engine, active=0, queued=0)
    engine.close()


def test_closing_a_waiting_stream_removes_it_from_the_queue() -> None:
    engine = engine_of(slots=1, queue=1)
    active, waiting = engine.stream(request(f"{FOX} {FOX}")), engine.stream(request())
    assert settled(engine, active=1, queued=1)
    waiting.close()
    assert settled(engine, active=1, queued=0)
    active.close()
    engine.close()


def test_a_slow_reader_blocks_only_its_own_slot() -> None:
    engine = engine_of(slots=2, queue=1)
    slow = engine.stream(request(" ".join([FOX] * 20), slice_frames=1))
    next(slow)
    assert engine.generate(request()).seconds > 1
    assert settled(engine, active=1, queued=0)
    assert sum(chunk.samples.size for chunk in slow) > 40 * SAMPLE_RATE
    engine.close()


def test_synthesis_is_bounded_by_the_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    synthesized: list[str] = []
    synthesize = EspeakLibrary.synthesize

    def counted(library: EspeakLibrary, text: str, *rest: object, **named: object) -> None:
        synthesized.append(text)
        synthesize(library, text, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(EspeakLibrary, "synthesize", counted)
    engine = engine_of(slots=1, queue=1)
    stream = engine.stream(request(" ".join([FOX] * 100), chunk_characters=1000))
    next(stream)
    engine.close()
    assert sum(map(len, synthesized)) <= 2 * 150


def test_cancelling_stops_within_a_text_chunk() -> None:
    library = EspeakLibrary()
    pieces: list[Pcm] = []

    def two_pieces(pcm: Pcm) -> bool:
        pieces.append(pcm)
        return len(pieces) < 2

    library.synthesize(FOX, SPEAKERS[0], 50, pause=False, sink=two_pieces)
    assert len(pieces) == 2


def test_an_error_in_the_sink_is_raised() -> None:
    def fail(pcm: Pcm) -> bool:
        raise KeyError("sink")

    with pytest.raises(KeyError, match="sink"):
        EspeakLibrary().synthesize(FOX, SPEAKERS[0], 50, pause=False, sink=fail)


def test_closing_ends_every_stream_and_the_thread() -> None:
    before = set(threading.enumerate())
    engine = engine_of(slots=1, queue=1)
    active, waiting = engine.stream(request(" ".join([FOX] * 20))), engine.stream(request())
    next(active)
    engine.close()
    engine.close()
    for stream in (active, waiting):
        with pytest.raises(EngineClosed):
            list(stream)
    with pytest.raises(EngineClosed):
        engine.stream(request())
    assert set(threading.enumerate()) <= before


def test_a_missing_voice_fails_only_its_request(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EspeakVoice, "name", property(lambda voice: f"{voice.variant}-speaks-no-language"))
    with pytest.raises(EngineFailed, match="no voice 'm2-speaks-no-language'"):
        engine.generate(request(speaker=1))
    monkeypatch.undo()
    assert engine.generate(request(speaker=0)).seconds > 1
    assert engine.status().error is None


def test_a_failed_engine_reports_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of()

    def broken(*args: object, **named: object) -> None:
        raise MemoryError("none left")

    monkeypatch.setattr(EspeakLibrary, "synthesize", broken)
    with pytest.raises(EngineFailed, match="none left"):
        engine.generate(request())
    with pytest.raises(EngineFailed, match="none left"):
        engine.stream(request())
    assert engine.status().error == "none left"
    engine.close()


def test_a_stalled_engine_reports_for_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of()
    assert engine.status().stalled_seconds == 0
    stalled, resume = threading.Event(), threading.Event()

    def stall(*args: object, **named: object) -> None:
        stalled.set()
        resume.wait(timeout=60)

    monkeypatch.setattr(EspeakLibrary, "synthesize", stall)
    stream = engine.stream(request())
    wait_for(stalled)
    first = engine.status().stalled_seconds
    assert 0 <= first < engine.status().stalled_seconds
    resume.set()
    assert list(stream)[-1].ends_speech
    engine.close()
    assert engine.status().stalled_seconds == 0


def test_a_missing_package_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(CheckpointError, match="make install"):
        engine_of()


def test_a_library_that_does_not_load_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("espeakng_loader.get_library_path", lambda: str(tmp_path / "missing.so"))
    with pytest.raises(CheckpointError, match=r"missing\.so"):
        engine_of()


def test_missing_data_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("espeakng_loader.get_data_path", lambda: str(tmp_path))
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        engine_of()


def test_a_pause_is_exact_silence_and_the_speech_around_it_stays(engine: Engine) -> None:
    parts = [engine.generate(request(text)).samples for text in ("One.", "Two.")]
    paused = engine.generate(request("[pause:100ms]One.[pause:500ms]Two.[pause:1s]", crossfade_milliseconds=30)).samples
    silence = [np.zeros(size, np.float32) for size in (2400, 12_000, 24_000)]
    np.testing.assert_array_equal(paused, np.concatenate([silence[0], parts[0], silence[1], parts[1], silence[2]]))


def test_a_long_text_is_read_as_it_is_spoken(monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.text import reading

    read: list[int] = []
    original = reading.normalize_window
    monkeypatch.setattr(reading, "normalize_window", lambda text: read.append(len(text)) or original(text))
    engine = engine_of()
    try:
        with engine.stream(request("It costs $5 at most. " * 20_000, normalize=True)) as stream:
            next(stream)
            assert sum(read) <= 3000
    finally:
        engine.close()


def test_each_turn_of_a_dialogue_has_its_voice_and_nothing_but_the_gap_follows_it(engine: Engine) -> None:
    alone = [engine.generate(request(FOX, speaker=number)).samples for number in (1, 2)]
    turns = (DialogueTurn(FOX, 1), DialogueTurn(FOX, 2, gap_milliseconds=500))
    samples = engine.generate(SpeechRequest(turns=turns)).samples
    np.testing.assert_array_equal(samples, np.concatenate([alone[0], np.zeros(12_000, np.float32), alone[1]]))
