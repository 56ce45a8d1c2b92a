"""Dialogues: the codes of transformers, one context for all voices, and the turns' own voices in every engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine import (
    DialogueTurn,
    Engine,
    InvalidRequest,
    NoWords,
    PromptTooLong,
    SpeechRequest,
    VoicePrompt,
)
from engine.engine_core import CsmEngine
from engine.fake_stream import tone
from engine.testing import FakeEngine
from engine.types import FRAME_SAMPLES, SAMPLE_RATE, Codes, Samples

from . import checkpoints, oracle

Load = Callable[..., CsmEngine]
CODEC_VOCAB = 64
TEXTS = ("Tell me.", "What?", "All of it.", "No.", "Why?")
POSITIONS = 220  # of the context


@pytest.fixture(scope="module")
def voices() -> list[VoicePrompt]:
    rng = np.random.default_rng(7)
    words = ("These are my words.", "And those are mine.")
    return [VoicePrompt(rng.normal(0, 0.1, 12_345).astype(np.float32), each) for each in words]


def dialogue(voices: list[VoicePrompt], texts: tuple[str, ...] = TEXTS, gap: int = 0) -> SpeechRequest:
    turns = tuple(
        DialogueTurn(text, number % 2, voices[number % 2], gap_milliseconds=gap) for number, text in enumerate(texts)
    )
    return SpeechRequest(turns=turns, temperature=0)


def turns_of(engine: Engine, request: SpeechRequest) -> list[tuple[Codes, Samples]]:
    """What each turn of a dialogue without gaps was spoken with."""
    parts: dict[int, list[Any]] = {}
    for chunk in engine.stream(request):
        parts.setdefault(chunk.text_part, []).append(chunk)
    return [
        (np.concatenate([each.codes for each in chunks]), np.concatenate([each.samples for each in chunks]))
        for _, chunks in sorted(parts.items())
    ]


def test_a_dialogue_gives_the_codes_of_transformers(load: Load, voices: list[VoicePrompt], tmp_path: Path) -> None:
    """Both voices' prompts, then the turns as they are spoken, each under its speaker, and each decoded on its own.

    Once the context is full, the newest turns that fit are kept, and both voices always.
    """
    model = checkpoints.build_model(seed=5, max_position_embeddings=POSITIONS)
    engine = load(checkpoints.write_checkpoint(tmp_path, model))
    tokenizer = checkpoints.write_tokenizer(tmp_path)
    recordings = [(voice.transcript, number, voice.samples) for number, voice in enumerate(voices)]
    said: list[tuple[str, int, Codes]] = []
    kept = []
    for text, (codes, samples) in zip(TEXTS, turns_of(engine, dialogue(voices)), strict=True):
        speaker = len(said) % 2
        for count in range(len(said), -1, -1):  # the newest of the turns before
            expected = oracle.dialogue_codes(
                model, tokenizer, recordings, said[len(said) - count :], text, speaker, len(codes), CODEC_VOCAB
            )
            if equal(expected, codes):
                kept.append(count)
                break
        np.testing.assert_allclose(samples, oracle.decode(model, codes), atol=1e-4 * np.abs(samples).max())
        said.append((text, speaker, codes))
    assert len(kept) == len(TEXTS)
    assert kept[:3] == [0, 1, 2]
    assert 0 < kept[-1] < len(said) - 1
    with pytest.raises(PromptTooLong, match="all voices together"):
        engine.stream(dialogue([replace(voice, samples=np.tile(voice.samples, 12)) for voice in voices]))


def test_what_was_said_and_every_voice_are_context(engine: CsmEngine, voices: list[VoicePrompt]) -> None:
    request = dialogue(voices, TEXTS[:3])
    other = replace(request, turns=(replace(request.turns[0], text="Who is it?"), *request.turns[1:]))
    first, *rest = turns_of(engine, request)
    changed, *others = turns_of(engine, other)
    assert not equal(first[0], changed[0])
    assert not any(equal(one[0], two[0]) for one, two in zip(rest, others, strict=True))
    alone = engine.generate(SpeechRequest(TEXTS[0], voice=voices[0], temperature=0)).codes
    assert not equal(first[0], alone)  # the second voice is heard before the first turn already


def equal(one: Codes, other: Codes) -> bool:
    return one.shape == other.shape and bool((one == other).all())


def test_cached_voices_change_nothing(load: Load, voices: list[VoicePrompt], checkpoint: Path) -> None:
    """Neither the first one alone, nor all of them."""
    request = replace(dialogue(voices, TEXTS[:2]), guidance=1.5)
    expected = load(checkpoint).generate(request).codes
    engine = load(checkpoint)
    engine.generate(replace(request, turns=request.turns[:1]))
    for _ in range(2):
        np.testing.assert_array_equal(engine.generate(request).codes, expected)


def test_gaps_are_exact_silence_and_overlaps_are_mixed() -> None:
    engine = FakeEngine(slots=1)
    turns = tuple(DialogueTurn(text, speaker) for text, speaker in (("First.", 0), ("Second.", 3), ("Third.", 0)))
    request = SpeechRequest(turns=turns, crossfade_milliseconds=30, normalize=True)
    spoken = [tone(request, first, frames, part) for part, (first, frames) in enumerate(((0, 6), (6, 7), (13, 6)))]
    for gap in (0, 1000, -160):
        changed = replace(request, turns=tuple(replace(turn, gap_milliseconds=gap) for turn in turns))
        samples = engine.generate(changed).samples
        size = gap * SAMPLE_RATE // 1000
        expected = np.zeros(19 * FRAME_SAMPLES + 2 * size, np.float32)
        at = 0
        for each in spoken:
            expected[at : at + each.size] += each
            at += each.size + size
        np.testing.assert_allclose(samples, expected, atol=1e-6)
    engine.close()


def test_words_are_located_in_the_lines_of_the_dialogue() -> None:
    engine = FakeEngine(slots=1)
    turns = (DialogueTurn("It is 5 o'clock."), DialogueTurn("Not yet.", 1, gap_milliseconds=500))
    request = SpeechRequest(turns=turns, normalize=True, timestamps=True)
    assert request.text == "It is 5 o'clock.\nNot yet."
    words, at = [], 0
    for chunk in engine.stream(request):
        for timing in chunk.timings:
            words += [(request.text[each.text_begin : each.text_end], each.begin + at) for each in timing.words]
        at += chunk.samples.size
    assert [word for word, _ in words] == ["It", "is", "5", "o'clock.", "Not", "yet."]
    second = next(begin for word, begin in words if word == "Not")
    assert second == (len("It is five o'clock.")) * FRAME_SAMPLES + SAMPLE_RATE // 2
    engine.close()


@pytest.mark.parametrize(
    ("turns", "error", "message"),
    [
        ((DialogueTurn("Yes."), DialogueTurn(" ")), InvalidRequest, "turn 2 is empty"),
        ((DialogueTurn("Yes."), DialogueTurn("No.", gap_milliseconds=10_001)), InvalidRequest, "gap_milliseconds"),
        ((DialogueTurn("Yes."), DialogueTurn("No.", speaker=1000)), InvalidRequest, "speaker of turn 2"),
        ((DialogueTurn("Yes."), DialogueTurn("[pause:1s]")), NoWords, "turn 2 has no words"),
        ((DialogueTurn("Yes."), DialogueTurn("😀")), NoWords, "turn 2: text has no words"),
    ],
)
def test_a_turn_that_cannot_be_said_is_named(
    turns: tuple[DialogueTurn, ...], error: type[Exception], message: str
) -> None:
    engine = FakeEngine(slots=1)
    with pytest.raises(error, match=message):
        engine.stream(SpeechRequest(turns=turns, normalize=True))
    engine.close()
