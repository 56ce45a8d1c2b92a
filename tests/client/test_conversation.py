from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

import pytest
from csm_serve_client import (
    AsyncCsmClient,
    AudioDelta,
    Busy,
    ConversationError,
    ConversationEvent,
    CsmClient,
    ErrorReceived,
    FunctionCall,
    ResponseDone,
    StreamCut,
    Unavailable,
    UnexpectedAnswer,
    Unreachable,
)
from csm_serve_client.conversation_events import read_event
from csm_serve_client.conversation_requests import session_update
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection, serve

Script = Callable[[ServerConnection], None]
CREATED = {"type": "session.created", "session": {"csm": {"llm": "echo"}}}


@contextmanager
def service(script: Script, **options: Any) -> Iterator[str]:
    """A WebSocket server that runs a script for each connection."""
    with serve(script, "127.0.0.1", 0, **options) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.socket.getsockname()[1]}"
        server.shutdown()
        thread.join(10)


def send(socket: ServerConnection, *events: dict[str, Any]) -> None:
    for event in events:
        socket.send(json.dumps(event))


def receive(socket: ServerConnection) -> dict[str, Any]:
    event = json.loads(socket.recv(timeout=10))
    assert isinstance(event, dict)
    return event


def error(code: str, event_id: str) -> dict[str, Any]:
    return {
        "type": "error",
        "error": {"type": "invalid_request_error", "code": code, "message": "x", "event_id": event_id},
    }


def test_requests_are_sent_and_events_are_typed() -> None:
    received: list[dict[str, Any]] = []

    def script(socket: ServerConnection) -> None:
        assert socket.request is not None
        assert (socket.request.path, socket.request.headers["X-API-Key"]) == ("/v1/realtime", "a-key")
        send(socket, CREATED)
        update = receive(socket)
        send(socket, {"type": "session.updated", "session": update["session"]})
        received.extend(receive(socket) for _ in range(9))
        place = {"response_id": "r", "item_id": "i"}
        send(
            socket,
            {"type": "response.output_audio.delta", "delta": "AAEC", **place},
            {"type": "response.content_part.added", "part": {}},
            {"type": "response.function_call_arguments.done", "call_id": "c", "name": "f", "arguments": "{}"},
            error("response_cancel_not_active", received[6]["event_id"]),
            error("invalid_value", received[7]["event_id"]),
        )
        socket.recv(timeout=10)

    with (
        service(script) as url,
        CsmClient(url, "a-key") as client,
        client.converse(voice_id="amy", speaks=False) as talk,
    ):
        assert talk.session["audio"]["output"] == {"voice": "amy"}
        talk.send_audio(b"\0\1\2")
        talk.commit_audio()
        talk.clear_audio()
        talk.send_text("Hi.")
        talk.send_function_output("c", "4", respond=False)
        talk.interrupt()
        wrong = talk.truncate("i", 300)
        talk.update(push_to_talk=True)
        audio, part, call, failure = (next(talk) for _ in range(4))
        assert isinstance(audio, AudioDelta)
        assert (audio.audio, audio.item_id) == (b"\0\1\2", "i")
        assert (type(part), part.type) == (ConversationEvent, "response.content_part.added")
        assert isinstance(call, FunctionCall)
        assert call.name == "f"
        assert isinstance(failure, ErrorReceived)
        assert (failure.error.code, failure.error.event_id) == ("invalid_value", wrong)
        talk.close()
        assert list(talk) == []
    kinds = [event["type"] for event in received]
    assert kinds == [
        "input_audio_buffer.append",
        "input_audio_buffer.commit",
        "input_audio_buffer.clear",
        "conversation.item.create",
        "response.create",
        "conversation.item.create",
        "response.cancel",
        "conversation.item.truncate",
        "session.update",
    ]
    assert received[0]["audio"] == "AAEC"
    assert received[3]["item"]["content"] == [{"type": "input_text", "text": "Hi."}]
    assert received[8]["session"]["audio"]["input"] == {"turn_detection": None}


def test_rejected_settings_raise() -> None:
    def script(socket: ServerConnection) -> None:
        send(socket, CREATED)
        send(socket, error("unknown_voice", receive(socket)["event_id"]))
        socket.recv(timeout=10)

    with service(script) as url, CsmClient(url, "") as client:
        with pytest.raises(ConversationError) as caught, client.converse(voice_id="nobody"):
            pass
        assert caught.value.code == "unknown_voice"


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [(1012, "shutting down", Unavailable), (1001, "idle for 300 seconds", StreamCut), (0, "is gone", StreamCut)],
)
def test_an_end_that_this_side_did_not_ask_for_raises(code: int, reason: str, kind: type[Exception]) -> None:
    def script(socket: ServerConnection) -> None:
        send(socket, CREATED)
        socket.close(code, reason) if code else socket.socket.shutdown(2)

    with service(script) as url, CsmClient(url, "") as client, client.converse() as talk:
        with pytest.raises(kind, match=reason):
            next(talk)
        with pytest.raises(kind):
            talk.send_text("Hi.")


def test_refusals_are_retried_and_raised_and_redirects_are_not_followed() -> None:
    answers = [429, 429, 302]
    keys: list[str] = []

    def refuse(socket: ServerConnection, request: Request) -> Response:
        keys.append(request.headers["X-API-Key"])
        status = answers.pop(0)
        response = socket.respond(HTTPStatus(status), json.dumps({"detail": "wait", "code": "too_many_sessions"}))
        response.headers["Retry-After"] = "0"
        response.headers["Location"] = f"http://localhost:{socket.socket.getsockname()[1]}/elsewhere"
        return response

    def script(socket: ServerConnection) -> None:
        raise AssertionError

    with service(script, process_request=refuse) as url:
        with CsmClient(url, "a-key", retries=1) as client, pytest.raises(Busy) as caught, client.converse():
            pass
        assert (caught.value.code, caught.value.retry_after) == ("too_many_sessions", 0)
        with CsmClient(url, "a-key") as client, pytest.raises(UnexpectedAnswer, match="elsewhere"), client.converse():
            pass
    assert keys == ["a-key"] * 3
    with CsmClient(url, "a-key") as client, pytest.raises(Unreachable, match="CSM_URL"), client.converse():
        pass


@pytest.mark.anyio
async def test_the_async_client_does_the_same() -> None:
    refusals = [429]

    def refuse(socket: ServerConnection, request: Request) -> Response | None:
        return socket.respond(HTTPStatus(refusals.pop(0)), "{}") if refusals else None

    def script(socket: ServerConnection) -> None:
        send(socket, CREATED)
        send(socket, {"type": "session.updated", "session": receive(socket)["session"]})
        kinds = [receive(socket)["type"] for _ in range(8)]
        send(socket, {"type": "kinds", "kinds": kinds})
        socket.recv(timeout=10)

    with service(script, process_request=refuse) as url:
        async with AsyncCsmClient(url, "") as client:
            with pytest.raises(Busy):
                async with client.converse():
                    pass
            async with client.converse(instructions="Be brief.") as talk:
                assert talk.session["instructions"] == "Be brief."
                await talk.send_audio(b"\0")
                await talk.commit_audio()
                await talk.clear_audio()
                await talk.send_text("Hi.", respond=False)
                await talk.send_function_output("c", "4")
                await talk.interrupt()
                await talk.truncate("i", 1)
                assert len((await anext(talk)).body["kinds"]) == 8
                await talk.close()
                assert [event async for event in talk] == []


def test_a_response_has_its_words_and_its_error() -> None:
    body = {
        "id": "r",
        "status": "failed",
        "status_details": {"type": "failed", "error": {"code": "llm_failed", "message": "It is gone."}},
        "output": [{"content": [{"transcript": "I was"}]}, {"type": "function_call"}],
        "metadata": None,
    }
    done = read_event(json.dumps({"type": "response.done", "response": body}))
    assert isinstance(done, ResponseDone)
    assert (done.text, done.metadata) == ("I was", {})
    assert done.error is not None
    assert (done.error.code, str(done.error)) == ("llm_failed", "It is gone.")


@pytest.mark.parametrize("message", ["hello", "[]", "{}", '{"type": "response.done"}', b"\xff"])
def test_what_is_no_event_raises(message: str | bytes) -> None:
    with pytest.raises(UnexpectedAnswer):
        read_event(message)


def test_settings_become_the_protocols() -> None:
    options = {"audio_format": "mulaw", "silence_duration_ms": 200, "language": "en", "speed": 1.5, "temperature": 1.0}
    assert session_update(options)["session"] == {
        "type": "realtime",
        "temperature": 1.0,
        "audio": {
            "input": {
                "format": {"type": "audio/pcmu"},
                "transcription": {"language": "en"},
                "turn_detection": {"type": "server_vad", "silence_duration_ms": 200},
            },
            "output": {"format": {"type": "audio/pcmu"}, "speed": 1.5},
        },
    }
    with pytest.raises(ValueError, match="mulaw"):
        session_update({"audio_format": "mp3"})
