"""An answer is one text in one slot, however the language model writes it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI

from app.llm.language_model import Finished, TextDelta
from app.settings import Settings
from engine import FRAME_SAMPLES, TextFeed
from engine.testing import FakeEngine

from .harness import RealtimeClient, StubModel, StubTranscriber, talking

pytestmark = pytest.mark.anyio

CLAUSES = ["First things first, ", "then a second sentence follows. ", "And that is all of it."]


class HeldModel(StubModel):
    """Writes each clause when it is released."""

    def __init__(self, *clauses: str) -> None:
        super().__init__()
        self._clauses = clauses
        self.released = [asyncio.Event() for _ in clauses]

    async def stream(self, request: Any) -> Any:
        for clause, released in zip(self._clauses, self.released, strict=True):
            await released.wait()
            yield TextDelta(clause)
        yield Finished()


@pytest.fixture
async def app(settings: Settings, run: Any) -> AsyncIterator[FastAPI]:
    async with run(settings) as app:
        app.state.realtime.transcriber = StubTranscriber()
        yield app


def engine_of(app: FastAPI) -> FakeEngine:
    engine = app.state.service.host.engine
    assert isinstance(engine, FakeEngine)
    return engine


async def answer(client: RealtimeClient) -> Any:
    client.send("response.create")
    return (await client.next("response.done"))["response"]


async def test_the_audio_does_not_depend_on_when_the_clauses_come(app: FastAPI, wait: Any) -> None:
    """Once all at once; once each only after all audio before it, while the slot waits."""
    app.state.realtime.language_model = StubModel([TextDelta("".join(CLAUSES)), Finished()])
    async with talking(app) as client:
        await answer(client)
        at_once = client.audio()
    app.state.realtime.language_model = held = HeldModel(*CLAUSES)
    async with talking(app) as client:
        answering = asyncio.create_task(answer(client))
        frames = 0
        for clause, released in zip(CLAUSES, held.released, strict=True):
            released.set()
            frames += len(clause.strip())
            if clause != CLAUSES[-1]:
                await wait(lambda frames=frames: client.audio().size == frames * FRAME_SAMPLES)
                assert engine_of(app).status().active == 1
                assert app.state.service.pool.dispatcher.active == 1
        done = await answering
        assert np.array_equal(client.audio(), at_once)
    assert done["output"][0]["content"][0]["transcript"] == "".join(CLAUSES).strip()
    assert len(engine_of(app).histories) == 2  # one request for each answer
    await wait(lambda: engine_of(app).status().active == 0)


async def test_the_next_answer_has_the_clauses_as_context(app: FastAPI) -> None:
    app.state.realtime.language_model = StubModel([TextDelta("".join(CLAUSES)), Finished()])
    async with talking(app) as client:
        await answer(client)
        await answer(client)
    first, second = engine_of(app).histories
    assert first == ()
    assert [(each.text, len(each.codes)) for each in second] == [(each.strip(), len(each.strip())) for each in CLAUSES]


async def test_a_model_that_writes_no_clause_does_not_hold_the_slot_for_ever(
    settings: Settings, run: Any, wait: Any
) -> None:
    async with run(settings.model_copy(update={"llm_timeout_seconds": 0.2})) as app:
        app.state.realtime.language_model = HeldModel(*CLAUSES)
        app.state.realtime.language_model.released[0].set()
        async with talking(app) as client:
            failed = await answer(client)
            await wait(lambda: engine_of(app).status().active == 0)
            app.state.realtime.language_model = StubModel()
            after = await answer(client)
    assert (failed["status"], failed["status_details"]["error"]["code"]) == ("failed", "llm_timeout")
    assert failed["output"][0]["content"][0]["transcript"] == CLAUSES[0].strip()
    assert after["status"] == "completed"


async def test_an_answer_ends_at_the_longest_duration_of_a_request(settings: Settings, run: Any) -> None:
    async with run(settings.model_copy(update={"tts_max_audio_length_ms": 30 * 80})) as app:
        app.state.realtime.language_model = held = HeldModel(*CLAUSES, "Never written.")
        for released in held.released[:-1]:
            released.set()
        async with talking(app) as client:
            done = await answer(client)
            assert client.audio().size == 30 * FRAME_SAMPLES
    assert (done["status"], done["status_details"]["reason"]) == ("incomplete", "max_output_tokens")


async def test_an_answer_that_was_written_whole_but_not_spoken_whole_is_incomplete(
    settings: Settings, run: Any
) -> None:
    async with run(settings.model_copy(update={"tts_max_audio_length_ms": 30 * 80})) as app:
        app.state.realtime.language_model = StubModel([TextDelta("".join(CLAUSES)), Finished()])
        async with talking(app) as client:
            done = await answer(client)
            assert client.audio().size == 30 * FRAME_SAMPLES
    assert (done["status"], done["status_details"]["reason"]) == ("incomplete", "max_output_tokens")


class LateWriter:
    """Has a model write each clause only when the listener has almost nothing left to hear, on the engine's clock.

    The engine makes a frame in 40 ms, which are half a frame to the listener. Other threads read it once the answer is
    done.
    """

    LEFT = 1.5  # frames: a slice of all five would come too late

    def __init__(self, model: HeldModel) -> None:
        self.emitted = 0  # frames
        self.gaps: list[tuple[int, float]] = []  # (frames emitted before, frames that could have been heard)
        self._model, self._loop = model, asyncio.get_running_loop()
        self._heard = 0.0  # frames, since the first slice
        self._next = 1  # clause

    def step(self, engine: FakeEngine, original: Callable[[FakeEngine], None]) -> None:
        row = next(iter(engine._running), None)
        made = 0 if row is None else row.made
        original(engine)
        if row is None or row.made == made:
            return  # nothing to do, or its reader is behind: no time passes
        if self.emitted:
            self._heard += 0.5
        if row.emitted > self.emitted:
            if self._heard > self.emitted:
                self.gaps.append((self.emitted, self._heard))
            self.emitted = row.emitted
        if row.waiting_for_text and self._next < len(self._model.released):
            self._heard = max(self._heard, self.emitted - self.LEFT)
            self._write(row.request.more)

    def _write(self, more: TextFeed | None) -> None:
        assert more is not None
        written = threading.Event()
        self._loop.call_soon_threadsafe(self._model.released[self._next].set)
        more.when_ready(self._next - 1, written.set)
        assert written.wait(60)
        self._next += 1


async def test_a_clause_that_is_written_late_but_in_time_leaves_no_gap(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    app.state.realtime.language_model = held = HeldModel(*CLAUSES)
    writer, step = LateWriter(held), FakeEngine._step
    monkeypatch.setattr(FakeEngine, "_step", lambda engine: writer.step(engine, step))
    held.released[0].set()
    async with talking(app) as client:
        done = await answer(client)
    assert done["status"] == "completed", done["status_details"]
    assert writer.emitted == sum(len(clause.strip()) for clause in CLAUSES)
    assert writer.gaps == []
