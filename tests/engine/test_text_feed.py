"""Texts that are spoken while they are written: one slot, audio that does not depend on when the parts come."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine import (
    FALLBACK_MODEL,
    FRAME_SAMPLES,
    KOKORO_MODEL,
    AudioChunk,
    Engine,
    EngineConfig,
    InvalidMarkup,
    InvalidRequest,
    NoWords,
    SpeechRequest,
    TextFeed,
    VoicePrompt,
    load_engine,
)
from engine.engine_core import CsmEngine
from engine.fallback.request_state import FallbackRequest
from engine.testing import FakeEngine
from engine.types import Codes

from . import checkpoints, oracle

CODEC_VOCAB = 64
FIRST, SECOND, THIRD = "One,", "then 2.", "[pause:200ms] The end."


@pytest.fixture(scope="module", params=["csm", KOKORO_MODEL, FALLBACK_MODEL, "fake"])
def any_engine(request: pytest.FixtureRequest, checkpoint: Path) -> Iterator[Engine]:
    if request.param == "fake":
        engine: Engine = FakeEngine(slots=2)
    else:
        model = str(checkpoint) if request.param == "csm" else request.param
        engine = load_engine(EngineConfig(model=model, device="cpu", dtype="float32", slots=2))
    yield engine
    engine.close()


def growing(more: TextFeed, text: str = FIRST, **values: object) -> SpeechRequest:
    limits = {"seed": 7, "max_frames": 200, "normalize": True, "slice_frames": 2}
    return SpeechRequest(text=text, more=more, **{**limits, **values})  # type: ignore[arg-type]


def written(*parts: str) -> TextFeed:
    feed = TextFeed()
    for part in parts:
        feed.append(part)
    feed.end()
    return feed


def joined(chunks: list[AudioChunk]) -> tuple[list[float], list[list[int]]]:
    samples = np.concatenate([chunk.samples for chunk in chunks])
    return samples.tolist(), np.concatenate([chunk.codes for chunk in chunks]).tolist()


def codes_of(chunks: list[AudioChunk]) -> Codes:
    return np.concatenate([chunk.codes for chunk in chunks])


def until_part_ends(stream: Iterator[AudioChunk], part: int) -> list[AudioChunk]:
    chunks = []
    for chunk in stream:
        chunks.append(chunk)
        assert chunk.text_part == part
        if chunk.ends_text_part:
            return chunks
    raise AssertionError(f"part {part} did not end")


def spoken_with_waits(engine: Engine, **values: object) -> list[AudioChunk]:
    """Each part comes only after all audio before it, while the slot waits."""
    feed = TextFeed()
    stream = engine.stream(growing(feed, **values))
    chunks = []
    for part, following in enumerate([SECOND, THIRD, None]):
        chunks += until_part_ends(stream, part)
        if following is None:
            feed.end()
        else:
            feed.append(following)
    return [*chunks, *stream]


def eventually(condition: Callable[[], bool]) -> None:
    """Wait for another thread; the test's time limit ends a wait that never succeeds."""
    pause = threading.Event()
    while not condition():
        pause.wait(0.001)


# ---- the engines


def test_the_audio_does_not_depend_on_when_the_parts_come(any_engine: Engine) -> None:
    whole = list(any_engine.stream(growing(written(SECOND, THIRD))))
    chunks = spoken_with_waits(any_engine)
    assert joined(chunks) == joined(whole)
    assert [chunk.text_part for chunk in whole if chunk.ends_text_part] == [0, 1, 2]
    assert [chunk.ends_speech for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


def test_crossfades_and_trims_do_not_depend_on_it_either() -> None:
    values = {"crossfade_milliseconds": 30, "trim_start_milliseconds": 50, "trim_end_milliseconds": 100}
    engine = FakeEngine(slots=1)
    whole = list(engine.stream(growing(written(SECOND, THIRD), **values)))
    assert joined(spoken_with_waits(engine, **values)) == joined(whole)
    plain = engine.generate(growing(written(SECOND, THIRD))).samples.size
    assert sum(chunk.samples.size for chunk in whole) == plain - (30 + 50 + 100) * 24  # no crossfade at the pause
    engine.close()


def test_a_waiting_slot_costs_nothing_and_is_freed_when_the_reader_leaves(any_engine: Engine) -> None:
    feed = TextFeed()
    with any_engine.stream(growing(feed)) as stream:
        until_part_ends(stream, 0)
        eventually(lambda: any_engine.status().stalled_seconds == 0.0)  # its thread sleeps
        assert any_engine.status().active == 1
        other = any_engine.generate(SpeechRequest("Hi.", max_frames=20, seed=1))
        assert other.samples.size
        feed.append(SECOND)
        until_part_ends(stream, 1)
    eventually(lambda: any_engine.status().active == 0)
    feed.append(THIRD)  # nobody reads it
    feed.end()
    assert (any_engine.generate(SpeechRequest("Hi.", max_frames=20, seed=1)).samples == other.samples).all()


def test_the_engine_sleeps_while_all_its_slots_wait(engine: CsmEngine) -> None:
    feed = TextFeed()
    with engine.stream(growing(feed)) as stream:
        until_part_ends(stream, 0)
        eventually(lambda: engine._busy_since is None)
        assert not engine._has_work()


def test_a_waiting_request_takes_no_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    turns: dict[FallbackRequest, int] = {}
    original = FallbackRequest.take_turn

    def take_turn(request: FallbackRequest) -> None:
        turns[request] = turns.get(request, 0) + 1
        original(request)

    monkeypatch.setattr(FallbackRequest, "take_turn", take_turn)
    engine = load_engine(EngineConfig(model=FALLBACK_MODEL, slots=2))
    with engine.stream(growing(TextFeed())) as stream:
        until_part_ends(stream, 0)
        eventually(lambda: engine.status().stalled_seconds == 0.0)
        before = next(iter(turns.values()))
        assert engine.generate(SpeechRequest("Meanwhile.")).samples.size
        assert next(iter(turns.values())) == before
        assert len(turns) == 2
    engine.close()


@pytest.mark.parametrize("any_engine", ["csm", FALLBACK_MODEL, "fake"], indirect=True)
def test_parts_that_cannot_be_read_fail_their_request_only(any_engine: Engine) -> None:
    for part, error in (("[pause:100ms]", NoWords), ("[pause:for ever]", InvalidMarkup)):
        with any_engine.stream(growing(written(part))) as stream, pytest.raises(error):
            list(stream)
    with pytest.raises(NoWords):
        any_engine.stream(growing(TextFeed(), "[pause:100ms]"))
    eventually(lambda: any_engine.status().active == 0)
    assert any_engine.generate(growing(written())).samples.size


@pytest.mark.parametrize("any_engine", ["csm", FALLBACK_MODEL, "fake"], indirect=True)
def test_the_limit_on_frames_holds_for_all_parts_together(any_engine: Engine) -> None:
    feed = written(SECOND)
    assert any_engine.generate(growing(feed, max_frames=12)).samples.size <= 12 * FRAME_SAMPLES
    eventually(lambda: any_engine.status().active == 0)


def test_closing_the_engine_ends_a_waiting_stream(checkpoint: Path, load: Callable[..., CsmEngine]) -> None:
    engine, feed = load(checkpoint), TextFeed()
    stream = engine.stream(growing(feed))
    until_part_ends(stream, 0)
    engine.close()
    feed.append(SECOND)
    with pytest.raises(Exception, match="closed"):
        next(stream)


# ---- CSM


def test_the_codes_of_a_second_part_are_those_of_transformers(
    load: Callable[..., CsmEngine], voice: VoicePrompt, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The first part and its codes are context of the second, as a turn of the same speaker."""
    model = checkpoints.build_model(seed=5)
    engine = load(checkpoints.write_checkpoint(tmp_path, model))
    tokenizer = checkpoints.write_tokenizer(tmp_path)
    feed = TextFeed()
    stream = engine.stream(SpeechRequest("I said that.", more=feed, voice=voice, temperature=0))
    first = codes_of(until_part_ends(stream, 0))
    feed.append("And now this.")
    feed.end()
    second = codes_of(until_part_ends(stream, 1))
    assert [chunk.ends_speech for chunk in stream] == [True]
    assert len(first) > 1
    assert len(second) > 1
    # transformers takes audio, not codes: the turn's are put in place of those that its codec would find
    said = np.zeros(len(first) * FRAME_SAMPLES, np.float32)
    encode = model.codec_model.encode

    def encoded(audio: Any, *args: Any, **kwargs: Any) -> Any:
        found = encode(audio, *args, **kwargs)
        if audio.shape[-1] == said.size:
            found.audio_codes = torch.from_numpy(first.T[None])
        return found

    monkeypatch.setattr(model.codec_model, "encode", encoded)
    turns = [(voice.transcript, 0, voice.samples), ("I said that.", 0, said)]
    inputs = oracle.conversation(tokenizer, turns, "And now this.", 0)
    np.testing.assert_array_equal(second, oracle.greedy_codes(model, inputs, len(second), CODEC_VOCAB))


# ---- the text


def test_parts_are_read_in_order_and_again() -> None:
    feed = TextFeed()
    assert not feed.ready(0)
    feed.append("one")
    assert feed.ready(0)
    assert not feed.ready(1)
    feed.append("two")
    feed.end()
    feed.end()
    for _ in range(2):
        assert [feed.get(index) for index in range(3)] == ["one", "two", None]
    assert feed.ended


def test_what_waits_for_a_part_is_called_once() -> None:
    feed, calls = TextFeed(), []
    feed.when_ready(1, lambda: calls.append("second"))
    feed.append("one")
    assert calls == []
    feed.append("two")
    feed.append("three")
    assert calls == ["second"]
    feed.when_ready(1, lambda: calls.append("at once"))
    feed.when_ready(3, lambda: calls.append("end"))
    feed.end()
    assert calls == ["second", "at once", "end"]


def test_blank_parts_and_parts_after_the_end_are_refused() -> None:
    feed = TextFeed()
    with pytest.raises(InvalidRequest, match="empty"):
        feed.append(" ")
    feed.end()
    with pytest.raises(InvalidRequest, match="ended"):
        feed.append("more")
    with pytest.raises(InvalidRequest, match="ignore_stop"):
        SpeechRequest("a", more=feed, ignore_stop=True, max_frames=3)
