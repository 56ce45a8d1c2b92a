from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from app.errors import Unavailable
from app.llm.chat_completions import ChatCompletions
from app.llm.echo import EchoModel
from app.llm.language_model import Answer, ChatRequest, Finished, TextDelta, ToolCallDelta

pytestmark = pytest.mark.anyio

Handler = Callable[[httpx.Request], httpx.Response]
HELLO = ChatRequest([{"role": "user", "content": "Hello."}])


def sse(*events: Any) -> bytes:
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events) + b"data: [DONE]\n\n"


def choice(finish: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


async def answer(handler: Handler, request: ChatRequest = HELLO, model: str | None = "m") -> list[Answer]:
    chat = ChatCompletions("http://llm/v1/", "secret", model, 5.0, httpx.MockTransport(handler))
    try:
        return [piece async for piece in chat.stream(request)]
    finally:
        await chat.close()


async def test_text_usage_and_the_request() -> None:
    seen: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        usage = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2}}
        return httpx.Response(
            200, content=b": comment\n\n" + sse(choice(content="Hi"), choice(content="."), choice("stop"), usage)
        )

    asked = ChatRequest(HELLO.messages, max_tokens=9, temperature=0.5)
    assert await answer(handle, asked) == [TextDelta("Hi"), TextDelta("."), Finished("stop", 7, 2)]
    body = json.loads(seen[0].content)
    assert str(seen[0].url) == "http://llm/v1/chat/completions"
    assert seen[0].headers["Authorization"] == "Bearer secret"
    assert (body["model"], body["max_tokens"], body["temperature"], body["stream"]) == ("m", 9, 0.5, True)
    assert "tools" not in body


async def test_function_calls_in_pieces() -> None:
    calls = [
        choice(tool_calls=[{"index": 0, "id": "c1", "function": {"name": "f", "arguments": ""}}]),
        choice(tool_calls=[{"index": 0, "function": {"arguments": "{}"}}]),
        choice("tool_calls"),
    ]
    pieces = await answer(lambda request: httpx.Response(200, content=sse(*calls)))
    assert pieces == [ToolCallDelta(0, "c1", "f"), ToolCallDelta(0, arguments="{}"), Finished("tool_calls")]


async def test_without_a_model_the_first_one_is_taken() -> None:
    asked: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        if request.url.path.endswith("/models"):
            return httpx.Response(200, json={"data": [{"id": "first"}, {"id": "second"}]})
        assert json.loads(request.content)["model"] == "first"
        return httpx.Response(200, content=sse(choice("stop", content="Hi")))

    assert await answer(handle, model=None) == [TextDelta("Hi"), Finished("stop")]
    assert asked == ["/v1/models", "/v1/chat/completions"]


def timing_out(request: httpx.Request) -> httpx.Response:
    raise httpx.ReadTimeout("slow", request=request)


def unreachable(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("no route", request=request)


@pytest.mark.parametrize(
    ("handler", "code", "words"),
    [
        (timing_out, "llm_timeout", "LLM_TIMEOUT_SECONDS"),
        (unreachable, "llm_failed", "no route"),
        (lambda request: httpx.Response(401, text="bad key"), "llm_refused", "bad key"),
        (lambda request: httpx.Response(429, text="slow down"), "llm_failed", "429"),
        (lambda request: httpx.Response(500), "llm_failed", "500"),
        (lambda request: httpx.Response(200, content=b"data: nonsense\n\n"), "llm_failed", "nonsense"),
        (lambda request: httpx.Response(200, content=sse({"error": {"message": "OOM"}})), "llm_failed", "OOM"),
        (lambda request: httpx.Response(200, content=sse(choice(content="Hi"))), "llm_failed", "in the middle"),
    ],
)
async def test_each_way_to_fail_has_a_code(handler: Handler, code: str, words: str) -> None:
    with pytest.raises(Unavailable, match=words) as raised:
        await answer(handler)
    assert raised.value.code == code


async def test_the_echo_repeats_the_newest_words_of_the_user() -> None:
    messages = [{"role": "user", "content": "One."}, {"role": "user", "content": [{"type": "text", "text": "Two."}]}]
    assert [piece async for piece in EchoModel().stream(ChatRequest(messages))] == [TextDelta("Two."), Finished()]
    assert [piece async for piece in EchoModel().stream(ChatRequest([]))] == [Finished()]
