"""The protocol on the fake engine: typed turns, events, errors, the end of a session."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import psutil
import pytest
from fastapi import FastAPI

from app.errors import Unavailable
from app.llm.language_model import Finished, TextDelta, ToolCallDelta
from app.realtime.service import RealtimeService
from app.settings import Settings

from .harness import RealtimeClient, StubModel, StubTranscriber, silence, talking

pytestmark = pytest.mark.anyio


@pytest.fixture
async def app(settings: Settings, run: Any) -> AsyncIterator[FastAPI]:
    async with run(settings) as app:
        app.state.realtime.transcriber = StubTranscriber()
        yield app


def service(app: FastAPI) -> RealtimeService:
    found = app.state.realtime
    assert isinstance(found, RealtimeService)
    return found


def slots(app: FastAPI) -> int:
    return int(app.state.service.host.engine.status().active)


async def test_a_typed_turn_is_echoed_with_the_events_of_the_protocol(app: FastAPI) -> None:
    async with talking(app) as client:
        session = client.events[0]["session"]
        assert "repeats what it hears" in session["csm"]["note"]
        assert session["audio"]["input"]["transcription"]["model"] == "stub"  # Pipecat refuses null
        client.say("Hello there.")
        client.send("response.create", response={"metadata": {"mine": "1"}})
        done = (await client.next("response.done"))["response"]
        kinds = [kind for kind in client.kinds() if kind != "response.output_audio.delta"]
        audio = client.audio()
    assert kinds[1:] == [
        "conversation.item.added",
        "conversation.item.done",
        "response.created",
        "response.output_item.added",
        "conversation.item.added",
        "response.content_part.added",
        "response.output_audio_transcript.delta",
        "response.output_audio.done",
        "response.output_audio_transcript.done",
        "response.content_part.done",
        "conversation.item.done",
        "response.output_item.done",
        "response.done",
    ]
    assert done["status"] == "completed"
    assert done["output"][0]["content"] == [{"type": "output_audio", "transcript": "Hello there."}]
    assert audio.size == len("Hello there.") * 1920  # the fake engine's
    assert np.abs(audio).max() > 5000
    assert done["usage"]["output_token_details"]["audio_tokens"] == len("Hello there.")
    assert {"mine", "total_ms", "llm_ms", "first_frame_ms"} <= done["metadata"].keys()


async def test_words_are_spoken_clause_by_clause_as_the_model_writes_them(app: FastAPI) -> None:
    """The second clause exists only after the first has sounded."""
    sounded = asyncio.Event()

    class Waiting(StubModel):
        async def stream(self, request: Any) -> Any:
            yield TextDelta("First things first, ")
            await sounded.wait()
            yield TextDelta("then the second sentence.")
            yield Finished()

    service(app).language_model = Waiting()
    async with talking(app) as client:
        client.send("response.create")
        await client.next("response.output_audio.delta")
        sounded.set()
        done = await client.next("response.done")
        deltas = [e["delta"] for e in client.events if e["type"] == "response.output_audio_transcript.delta"]
    assert deltas == ["First things first,", " then the second sentence."]
    assert len(app.state.service.host.engine.histories) == 1  # in one slot: of one request
    assert done["response"]["status"] == "completed"


async def test_a_text_session_never_takes_a_slot(app: FastAPI) -> None:
    service(app).language_model = StubModel([TextDelta("Hel"), TextDelta("lo."), Finished("stop", 12, 3)])
    async with talking(app, output_modalities=["text"]) as client:
        client.say("Hi.")
        client.send("response.create")
        done = (await client.next("response.done"))["response"]
        deltas = [e["delta"] for e in client.events if e["type"] == "response.output_text.delta"]
    assert deltas == ["Hel", "lo."]
    assert done["output"][0]["content"] == [{"type": "output_text", "text": "Hello."}]
    assert (done["usage"]["input_tokens"], done["usage"]["output_tokens"]) == (12, 3)
    assert len(app.state.service.host.engine.histories) == 0


async def test_function_calls_pass_through_to_the_client(app: FastAPI) -> None:
    model = StubModel(
        [
            ToolCallDelta(0, "call_1", "weather"),
            ToolCallDelta(0, arguments='{"city":'),
            ToolCallDelta(0, arguments='"Bern"}'),
            Finished("tool_calls"),
        ],
        [TextDelta("It is sunny."), Finished()],
    )
    service(app).language_model = model
    tool = {"type": "function", "name": "weather", "description": "d", "parameters": {"type": "object"}}
    async with talking(app, tools=[tool]) as client:
        client.say("How is the weather?")
        client.send("response.create")
        arguments = await client.next("response.function_call_arguments.done")
        done = (await client.next("response.done"))["response"]
        client.send(
            "conversation.item.create",
            item={"type": "function_call_output", "call_id": arguments["call_id"], "output": "sunny"},
        )
        client.send("response.create")
        answer = (await client.next("response.done"))["response"]
    assert (arguments["name"], arguments["arguments"], arguments["call_id"]) == ("weather", '{"city":"Bern"}', "call_1")
    assert [item["type"] for item in done["output"]] == ["function_call"]
    assert model.requests[0].tools == [
        {"type": "function", "function": {"name": "weather", "description": "d", "parameters": {"type": "object"}}}
    ]
    assert [message["role"] for message in model.requests[1].messages[1:]] == ["user", "assistant", "tool"]
    assert answer["output"][0]["content"][0]["transcript"] == "It is sunny."


@pytest.mark.parametrize("code", ["llm_failed", "llm_timeout", "llm_refused"])
async def test_a_failing_model_fails_the_response_and_the_session_goes_on(app: FastAPI, code: str) -> None:
    model = StubModel([TextDelta("Half a sentence. And"), Unavailable("it broke", code=code)])
    service(app).language_model = model
    async with talking(app) as client:
        client.say("Hi.")
        client.send("response.create")
        failed = (await client.next("response.done"))["response"]
        client.send("response.create")
        after = (await client.next("response.done"))["response"]
    assert failed["status"] == "failed"
    assert failed["status_details"]["error"]["code"] == code
    assert failed["output"][0]["content"][0]["transcript"] == "Half a sentence."
    assert after["status"] == "completed"
    assert "error" not in client.kinds()


async def test_a_failing_engine_fails_the_response_and_the_session_goes_on(app: FastAPI) -> None:
    async with talking(app) as client:
        client.say("Good grief [raise@2] and more.")
        client.send("response.create")
        failed = (await client.next("response.done"))["response"]
        client.say("Fine.")
        client.send("response.create")
        after = (await client.next("response.done"))["response"]
    assert failed["status_details"]["error"] == {
        "type": "server_error",
        "code": "engine_failed",
        "message": "the engine failed after 2 frames, as scripted",
    }
    assert after["status"] == "completed"


async def test_a_limit_on_tokens_makes_the_response_incomplete(app: FastAPI) -> None:
    service(app).language_model = StubModel([TextDelta("It goes"), Finished("length")])
    async with talking(app, max_output_tokens=5) as client:
        client.send("response.create")
        done = (await client.next("response.done"))["response"]
    assert (done["status"], done["status_details"]["reason"]) == ("incomplete", "max_output_tokens")


async def test_cancelling_frees_the_slot_and_another_response_can_follow(
    settings: Settings, run: Any, wait: Any
) -> None:
    async with run(settings.model_copy(update={"model_path": "fake:frame_seconds=0.02"})) as app:
        async with talking(app) as client:
            client.say("A sentence that takes its time to be spoken.")
            client.send("response.create")
            await client.next("response.output_audio.delta")
            client.send("response.create", event_id="second")
            error = (await client.next("error"))["error"]
            client.send("response.cancel")
            done = (await client.next("response.done"))["response"]
            await wait(lambda: slots(app) == 0)
            client.send("response.cancel")
            nothing = (await client.next("error"))["error"]
        assert (error["code"], error["event_id"]) == ("conversation_already_has_active_response", "second")
        assert (done["status"], done["status_details"]["reason"]) == ("cancelled", "client_cancelled")
        assert nothing["code"] == "response_cancel_not_active"


async def test_a_client_that_leaves_frees_its_slot_and_its_answer(settings: Settings, run: Any, wait: Any) -> None:
    async with run(settings.model_copy(update={"model_path": "fake:frame_seconds=0.02"})) as app:
        model = StubModel([TextDelta("A sentence that takes its time to be spoken."), Finished()])
        service(app).language_model = model
        async with talking(app) as client:
            client.send("response.create")
            await client.next("response.output_audio.delta")
        await wait(lambda: slots(app) == 0)
        assert model.closed == 1
        assert service(app).sessions == 0
        assert app.state.service.pool.dispatcher.active == 0


async def test_a_response_outside_the_conversation_leaves_no_item(app: FastAPI) -> None:
    async with talking(app) as client:
        part = {"type": "input_text", "text": "Only this."}
        item = {"type": "message", "role": "user", "content": [part]}
        client.send("response.create", response={"conversation": "none", "input": [item]})
        done = (await client.next("response.done"))["response"]
        client.send("conversation.item.retrieve", item_id=done["output"][0]["id"])
        error = (await client.next("error"))["error"]
    assert done["conversation_id"] is None
    assert done["output"][0]["content"][0]["transcript"] == "Only this."
    assert error["code"] == "item_not_found"
    assert "conversation.item.added" not in client.kinds()


async def test_items_can_be_retrieved_and_deleted(app: FastAPI) -> None:
    async with talking(app) as client:
        client.say("Forget me.")
        item = (await client.next("conversation.item.done"))["item"]
        client.send("conversation.item.retrieve", item_id=item["id"])
        assert (await client.next("conversation.item.retrieved"))["item"] == item
        client.send("conversation.item.delete", item_id=item["id"])
        assert (await client.next("conversation.item.deleted"))["item_id"] == item["id"]
        client.send("response.create")
        assert (await client.next("response.done"))["response"]["output"] == []


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("{", "invalid_json"),
        ("[]", "invalid_json"),
        ('{"type": "session.create"}', "unknown_event"),
        ('{"session": {}}', "unknown_event"),
        ('{"type": "input_audio_buffer.append", "audio": "not base64!"}', "invalid_audio"),
        ('{"type": "input_audio_buffer.append"}', "invalid_value"),
        ('{"type": "input_audio_buffer.commit"}', "input_audio_buffer_commit_empty"),
        ('{"type": "conversation.item.truncate", "item_id": "x", "audio_end_ms": 0}', "item_not_found"),
        ('{"type": "conversation.item.create", "item": {"type": "message", "role": "judge"}}', "invalid_value"),
        ('{"type": "session.update", "session": {"audio": {"output": {"voice": "nobody"}}}}', "unknown_voice"),
        ('{"type": "response.create", "response": {"input": [{"type": "item_reference"}]}}', "item_not_found"),
    ],
)
async def test_anything_wrong_is_an_error_and_the_session_goes_on(app: FastAPI, message: str, code: str) -> None:
    async with talking(app) as client:
        client.send_text(message)
        error = (await client.next("error"))["error"]
        assert (error["code"], error["type"]) == (code, "invalid_request_error")
        client.say("Still here.")
        client.send("response.create")
        assert (await client.next("response.done"))["response"]["status"] == "completed"


async def test_g711_is_spoken_at_8_khz(app: FastAPI) -> None:
    for kind in ("audio/pcmu", "audio/pcma"):
        async with talking(app, audio={"output": {"format": {"type": kind}}}) as client:
            client.say("Hello there.")
            client.send("response.create")
            await client.next("response.done")
            assert client.audio().nbytes == pytest.approx(12 * 640, abs=16)


async def test_the_key_may_come_as_a_subprotocol(app: FastAPI) -> None:
    client = RealtimeClient(app, ("realtime", "openai-insecure-api-key.first-key"), headers=[])
    await client.next("session.created")
    assert client.messages[0]["subprotocol"] == "realtime"
    await client.leave()
    stranger = RealtimeClient(app, ("realtime", "openai-insecure-api-key.other"), headers=[])
    await stranger.task
    assert stranger.messages[0]["status"] == 401


async def test_more_sessions_than_the_limit_are_refused_with_a_reason(settings: Settings, run: Any) -> None:
    async with run(settings.model_copy(update={"realtime_sessions_per_worker": 1})) as app:
        async with talking(app):
            second = RealtimeClient(app)
            await second.task
            assert second.messages[0]["status"] == 429
            assert json.loads(second.messages[1]["body"])["code"] == "too_many_sessions"
        async with talking(app):
            pass


async def test_an_idle_session_costs_under_two_megabytes_and_leaves_nothing(app: FastAPI) -> None:
    """200 sessions, each of which has heard half a second. The first ones load what all share."""
    process, tasks = psutil.Process(), len(asyncio.all_tasks())

    async def open_session() -> RealtimeClient:
        client = RealtimeClient(app)
        await client.next("session.created")
        client.hear(silence(0.5), milliseconds=100)
        client.send("input_audio_buffer.clear")
        await client.next("input_audio_buffer.cleared")
        return client

    first = [await open_session() for _ in range(5)]
    before = process.memory_info().rss
    clients = [await open_session() for _ in range(195)]
    cost = (process.memory_info().rss - before) / 195
    assert cost < 2e6
    for client in [*first, *clients]:
        await client.leave()
    assert service(app).sessions == 0
    assert len(asyncio.all_tasks()) == tasks


async def test_a_client_that_vanishes_is_no_error(app: FastAPI, caplog: pytest.LogCaptureFixture) -> None:
    """An answer finds out first, and then an event of the client's that came before."""
    async with talking(app) as client:
        client.gone = True
        client.send("response.create")
        client.say("Are you there?")
        client.say("Hello?")
        async with asyncio.timeout(30):
            await client.task
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []
    assert service(app).sessions == 0


async def test_words_that_are_recognised_for_nobody_are_no_error(
    app: FastAPI, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, recognised = asyncio.Event(), asyncio.Event()

    async def transcribe(samples: Any, language: str | None = None, prompt: str | None = None) -> str:
        asked.set()
        await recognised.wait()
        return "Hello."

    monkeypatch.setattr(service(app).transcriber, "transcribe", transcribe)
    audio = {"input": {"turn_detection": None, "transcription": {"model": "whisper-1"}}}
    async with asyncio.timeout(30), talking(app, audio=audio) as client:
        client.hear(silence(0.5))
        client.send("input_audio_buffer.commit")
        await client.next("conversation.item.done")
        await asked.wait()
        client.gone = True
        recognised.set()
        client.say("Are you there?")
        await client.task
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_shutdown_lets_the_answer_finish(settings: Settings, run: Any) -> None:
    async with (
        run(settings.model_copy(update={"model_path": "fake:frame_seconds=0.01"})) as app,
        talking(app) as client,
    ):
        client.say("To the end.")
        client.send("response.create")
        await client.next("response.output_audio.delta")
        client.control.shutting_down.set()
        assert (await client.next("response.done"))["response"]["status"] == "completed"
        await client.task
        assert client.messages[-1]["code"] == 1012


async def test_without_vad_the_session_says_what_is_missing(
    settings: Settings, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.realtime.vad._weights", lambda: "/nowhere/silero_vad.onnx")
    async with run(settings) as app:
        client = RealtimeClient(app)
        error = (await client.next("error"))["error"]
        await client.task
    assert error["code"] == "vad_failed"
    assert "silero_vad.onnx" in error["message"]
