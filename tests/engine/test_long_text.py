"""Long texts: every chunk in one slot, with earlier chunks as context, and constant memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import psutil
import pytest

from engine import InvalidRequest, PromptTooLong, SpeechRequest, SpeechSegment, VoicePrompt
from engine.context import Prefill
from engine.engine_core import CsmEngine
from engine.model_runner import SamplingParams
from engine.prompt_packing import PromptPiece
from engine.text import split_text

FRAMES_PER_CHUNK = 6
TEXT = "The quick brown fox jumps over the lazy dog, and then it does so again; nobody knows why. " * 60
TEXT = TEXT[:5000]


@pytest.fixture
def brief(engine: CsmEngine, monkeypatch: pytest.MonkeyPatch) -> Iterator[CsmEngine]:
    """The engine with a model that generates its stop frame after every six frames."""
    model = engine._runner.model
    original = model._codes

    def codes(hidden: Any, state: Any, rows: int, kind: Any) -> Any:
        made = original(hidden, state, rows, kind)
        made[state.sampling.frame[:rows] % (FRAMES_PER_CHUNK + 1) == FRAMES_PER_CHUNK] = 0
        return made

    monkeypatch.setattr(model, "_codes", codes)
    return engine


@pytest.mark.timeout(600)  # a busy machine needs minutes
def test_a_text_of_five_thousand_characters(
    brief: CsmEngine, voice: VoicePrompt, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, limit = brief._runner, brief._prompt_builder.max_positions
    highest = 0
    original = runner.prefill

    def recording_prefill(pieces: Sequence[PromptPiece]) -> None:
        nonlocal highest
        highest = max(highest, *(piece.prefill.start + piece.prefill.length for piece in pieces))
        original(pieces)

    monkeypatch.setattr(runner, "prefill", recording_prefill)
    brief.generate(SpeechRequest(TEXT[:1500], voice=voice, seed=1, chunk_characters=80))  # allocates its memory
    assert limit // 2 < highest
    before = psutil.Process().memory_info().rss
    seen: dict[int, int] = {}
    positions = 0
    for chunk in brief.stream(SpeechRequest(TEXT, voice=voice, seed=1, chunk_characters=80)):
        seen[chunk.text_chunk] = seen.get(chunk.text_chunk, 0) + len(chunk.codes)
        positions = max(positions, *runner._positions)
    assert list(seen) == list(range(len(split_text(TEXT, 80))))
    assert set(seen.values()) == {FRAMES_PER_CHUNK}
    assert limit // 2 < max(highest, positions) <= limit
    assert psutil.Process().memory_info().rss - before < 8 << 20


def test_the_next_chunk_has_the_previous_one_as_context(brief: CsmEngine, voice: VoicePrompt) -> None:
    """A second chunk in the same slot gives the codes that it gives when all before it is prefilled at once."""
    request = SpeechRequest("First of all, this. And then that.", voice=voice, temperature=0, chunk_characters=20)
    speech = brief.generate(request)
    first, second = speech.codes[:FRAMES_PER_CHUNK], speech.codes[FRAMES_PER_CHUNK:]
    builder, runner = brief._prompt_builder, brief._runner
    tokens = [builder._tokenizer.encode(text, 0) for text in split_text(request.text, 20)]
    silence = np.zeros((1, 4), np.int64)
    codes = runner.encode(voice.samples, voice.sample_rate)
    spans = [builder._tokenizer.encode(voice.transcript, 0), codes, silence, tokens[0], first, silence, tokens[1][:-1]]
    runner.reset_row(0, SamplingParams(seed=0, temperature_first=0, temperature=0, top_k=1))
    runner.prefill([PromptPiece(0, Prefill(0, spans))])
    runner.start_row(0, sum(map(len, spans)))
    made = np.stack([runner.step([0]).codes[0] for _ in range(FRAMES_PER_CHUNK)])
    np.testing.assert_array_equal(made, second)


def test_history_is_used_as_context(brief: CsmEngine, voice: VoicePrompt) -> None:
    """Speech of an earlier request is the same context as an earlier chunk of this one."""
    first, second = "First of all, this.", "And then that."
    request = SpeechRequest(f"{first} {second}", voice=voice, temperature=0, chunk_characters=20)
    both = brief.generate(request).codes
    before = brief.generate(replace(request, text=first)).codes
    history = (SpeechSegment(first, before),)
    after = brief.generate(replace(request, text=second, history=history)).codes
    np.testing.assert_array_equal(np.concatenate([before, after]), both)
    assert (brief.generate(replace(request, text=second)).codes != after).any()
    assert (
        brief.generate(replace(request, text=second, history=(SpeechSegment(first, before, speaker=1),))).codes != after
    ).any()


def test_the_newest_segments_of_a_long_history_are_kept(brief: CsmEngine) -> None:
    rng = np.random.default_rng(0)
    turns = tuple(SpeechSegment(f"Turn {n}.", rng.integers(0, 64, (40, 4)), n % 2) for n in range(30))
    request = SpeechRequest("And so it goes.", temperature=0)
    whole = brief.generate(replace(request, history=turns)).codes
    np.testing.assert_array_equal(whole, brief.generate(replace(request, history=turns[-10:])).codes)
    assert (whole != brief.generate(replace(request, history=turns[:-1])).codes).any()


@pytest.mark.parametrize("codes", [np.zeros((3, 5), np.int64), np.full((3, 4), 64), np.full((3, 4), -1)])
def test_history_codes_out_of_range_are_rejected(engine: CsmEngine, codes: Any) -> None:
    with pytest.raises(InvalidRequest, match="history"):
        engine.stream(SpeechRequest("What?", history=(SpeechSegment("This.", codes),)))


def test_zero_overlap_concatenates_independent_chunks(brief: CsmEngine, voice: VoicePrompt) -> None:
    request = SpeechRequest(
        "First of all, this. And then that.", voice=voice, temperature=0, chunk_characters=20, overlap="zero"
    )
    speech = brief.generate(request)
    parts = [brief.generate(SpeechRequest(text, voice=voice, temperature=0)) for text in split_text(request.text, 20)]
    assert len(parts) == 2
    np.testing.assert_array_equal(speech.codes, np.concatenate([part.codes for part in parts]))
    np.testing.assert_allclose(speech.samples, np.concatenate([part.samples for part in parts]), atol=1e-4)


def test_each_crossfade_shortens_the_audio_by_its_length(brief: CsmEngine) -> None:
    plain = brief.generate(SpeechRequest(TEXT[:600], seed=4))
    faded = brief.generate(SpeechRequest(TEXT[:600], seed=4, crossfade_milliseconds=30))
    joins = len(split_text(TEXT[:600], 150)) - 1
    assert joins >= 3
    assert plain.samples.size - faded.samples.size == joins * 720
    np.testing.assert_array_equal(plain.codes, faded.codes)


def test_speech_without_a_stop_frame_ends_at_its_limit(engine: CsmEngine) -> None:
    """The tiny model never generates a stop frame."""
    from engine.text import max_frames_for

    text = "Short."
    assert len(engine.generate(SpeechRequest(text, seed=1)).codes) == max_frames_for(text)


def test_max_frames_limits_the_whole_request(brief: CsmEngine) -> None:
    chunks = list(brief.stream(SpeechRequest(TEXT[:600], seed=4, max_frames=2 * FRAMES_PER_CHUNK + 1)))
    assert sum(len(chunk.codes) for chunk in chunks) == 2 * FRAMES_PER_CHUNK + 1
    assert [chunk.ends_speech for chunk in chunks][-1]
    assert chunks[-1].text_chunk == 2


def test_the_last_frame_of_a_chunk_that_hit_its_limit_is_prefilled_with_the_next(engine: CsmEngine) -> None:
    """A chunk that reaches its limit has a frame that was never fed back: the next prefill must contain it."""
    from engine.context import Context, TextChunk

    context = Context(max_positions=100, voice_length=10, eos_frame=np.zeros((1, 4), np.int64))
    first = context.begin_chunk(TextChunk("one", [1, 2, 3], max_frames=5))
    assert (first.start, first.spans) == (10, [[1, 2]])
    made = np.arange(20).reshape(5, 4)
    context.finish_chunk(made, fed=4)
    assert context.position == 10 + 3 + 4
    second = context.begin_chunk(TextChunk("two", [4, 5], max_frames=5))
    assert second.start == 17
    np.testing.assert_array_equal(second.spans[0], np.concatenate([made[4:], np.zeros((1, 4))]))
    assert second.spans[1] == [4]


@pytest.mark.parametrize("guidance", [0.0, 2.0])
def test_a_pause_is_exact_silence_and_the_speech_around_it_stays(brief: CsmEngine, guidance: float) -> None:
    """With the same chunks and seed, codes and samples are those of the text without pauses."""
    first, second = "This is the first of them.", "And this is the second one."
    request = SpeechRequest(f"{first} {second}", seed=9, chunk_characters=30, guidance=guidance)
    plain = list(brief.stream(request))
    text = f"[pause:100ms]{first}[pause:500ms]{second}[pause:1s]"
    paused = brief.generate(replace(request, text=text, crossfade_milliseconds=30))
    parts = [np.concatenate([each.samples for each in plain if each.text_chunk == index]) for index in (0, 1)]
    silence = [np.zeros(size, np.float32) for size in (2400, 12_000, 24_000)]
    np.testing.assert_array_equal(
        paused.samples, np.concatenate([silence[0], parts[0], silence[1], parts[1], silence[2]])
    )
    np.testing.assert_array_equal(paused.codes, np.concatenate([each.codes for each in plain]))


def test_pauses_count_against_the_limit(brief: CsmEngine) -> None:
    request = SpeechRequest("One of them.[pause:500ms]Two of them.", seed=1, max_frames=FRAMES_PER_CHUNK + 3)
    chunks = list(brief.stream(request))
    assert sum(each.samples.size for each in chunks) == 1920 * (FRAMES_PER_CHUNK + 3)
    assert [each.ends_speech for each in chunks][-1]
    assert brief.generate(SpeechRequest("[pause:10s]", max_frames=2)).samples.size == 2 * 1920


def test_later_chunks_are_planned_while_earlier_ones_are_spoken(
    brief: CsmEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer, encoded = brief._prompt_builder._tokenizer, []
    original = tokenizer.encode

    def recording(text: str, speaker: int) -> list[int]:
        encoded.append((text, threading.current_thread().name))
        return original(text, speaker)

    monkeypatch.setattr(tokenizer, "encode", recording)
    monkeypatch.setattr("engine.context._ALWAYS_ENOUGH", 0)  # the context of the tiny model is short
    texts = split_text(TEXT[:1500], 40)
    stream = brief.stream(SpeechRequest(TEXT[:1500], seed=1, chunk_characters=40))
    assert [text for text, _ in encoded] == texts[:1]
    seen = [chunk.text_chunk for chunk in stream]
    assert [text for text, _ in encoded] == texts
    assert {thread.partition("_")[0] for _, thread in encoded[1:]} == {"csm-text"}
    assert seen[-1] == len(texts) - 1


def test_a_chunk_that_cannot_be_planned_ends_its_request_alone(
    brief: CsmEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.context._ALWAYS_ENOUGH", 0)
    tokenizer = brief._prompt_builder._tokenizer
    original = tokenizer.encode
    monkeypatch.setattr(
        tokenizer, "encode", lambda text, speaker: original(text * (1000 if "long" in text else 1), speaker)
    )
    other = brief.stream(SpeechRequest("And so it goes.", seed=1))
    stream = brief.stream(SpeechRequest("This is short. [pause:1ms] Too long.", seed=1))
    with pytest.raises(PromptTooLong):
        list(stream)
    assert list(other)[-1].ends_speech
    assert brief.status().active == 0
