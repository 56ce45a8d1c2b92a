"""A language model behind OpenAI's chat completions: OpenAI, vLLM, Ollama, llama.cpp and others."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any

import httpx

from ..errors import ServiceError, Unavailable
from .language_model import Answer, ChatRequest, Finished, TextDelta, ToolCallDelta

CONNECT_SECONDS = 5.0
MAX_CONNECTIONS = 512
_SHOWN = 300  # characters of a refusal that an error repeats


class ChatCompletions:
    """Streams from `{base_url}/chat/completions`.

    model: None asks the server for its first one. seconds: how long it may send nothing.
    transport: in place of the network, for tests.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None,
        model: str | None,
        seconds: float,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.name = model or "default"
        self._base_url, self._model, self._seconds = base_url.rstrip("/"), model, seconds
        self._client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(seconds, connect=min(CONNECT_SECONDS, seconds)),
            limits=httpx.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=32),
            transport=transport,
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Answer, None]:
        try:
            async with self._client.stream(
                "POST", f"{self._base_url}/chat/completions", json=await self._body(request)
            ) as response:
                await self._check(response)
                async with aclosing(_read_answer(response)) as answer:
                    async for piece in answer:
                        yield piece
        except httpx.TimeoutException as error:
            raise Unavailable(
                f"the language model at LLM_BASE_URL sent nothing for {self._seconds:g} seconds "
                f"({type(error).__name__}): try again, or raise LLM_TIMEOUT_SECONDS",
                code="llm_timeout",
            ) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _failed(f"cannot be reached or broke off ({type(error).__name__}: {error})") from error

    async def _body(self, request: ChatRequest) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._model or await self._first_model(),
            "messages": request.messages,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if request.tools:
            body |= {"tools": request.tools, "tool_choice": request.tool_choice}
        if request.max_tokens is not None:
            body["max_tokens"] = request.max_tokens
        if request.temperature is not None:
            body["temperature"] = request.temperature
        return body

    async def _first_model(self) -> str:
        response = await self._client.get(f"{self._base_url}/models")
        await self._check(response)
        try:
            self._model = self.name = str(response.json()["data"][0]["id"])
        except (ValueError, LookupError, TypeError):
            raise _failed("lists no model at /models: set LLM_MODEL") from None
        return self._model

    async def _check(self, response: httpx.Response) -> None:
        if response.status_code < 400:
            return
        text = (await response.aread()).decode(errors="replace")[:_SHOWN]
        raise _error_of_status(response.status_code, text)


def _error_of_status(status: int, text: str) -> ServiceError:
    """4xx is a refusal: the same request would be refused again, except for 408 and 429."""
    shown = f"answered {status}: {text}" if text.strip() else f"answered {status}"
    if status < 500 and status not in (408, 429):
        return Unavailable(
            f"the language model at LLM_BASE_URL refused the request; it {shown}. Check LLM_MODEL and LLM_API_KEY",
            code="llm_refused",
        )
    return _failed(shown)


def _failed(reason: str) -> Unavailable:
    return Unavailable(f"the language model at LLM_BASE_URL {reason}", code="llm_failed")


async def _read_answer(response: httpx.Response) -> AsyncGenerator[Answer, None]:
    """The pieces of a server-sent stream; raises if it ends before the answer does."""
    reason: str | None = None
    usage: dict[str, Any] = {}
    async for line in response.aiter_lines():
        name, _, data = line.partition(":")
        if name != "data":
            continue
        if data.strip() == "[DONE]":
            break
        event = _parse(data)
        usage = event.get("usage") or usage
        for choice in event.get("choices") or ():
            reason = choice.get("finish_reason") or reason
            for piece in _pieces(choice.get("delta") or {}):
                yield piece
    if reason is None:
        raise _failed("ended its answer in the middle")
    yield Finished(reason, usage.get("prompt_tokens"), usage.get("completion_tokens"))


def _parse(data: str) -> dict[str, Any]:
    try:
        event = json.loads(data)
    except ValueError:
        event = None
    if not isinstance(event, dict):
        raise _failed(f"sent what is not JSON: {data[:_SHOWN]!r}")
    if error := event.get("error"):
        message = error.get("message") if isinstance(error, dict) else error
        raise _failed(f"failed: {str(message)[:_SHOWN]}")
    return event


def _pieces(delta: dict[str, Any]) -> Iterator[TextDelta | ToolCallDelta]:
    if text := delta.get("content"):
        yield TextDelta(text)
    for position, call in enumerate(delta.get("tool_calls") or ()):
        function = call.get("function") or {}
        yield ToolCallDelta(
            call.get("index", position),
            call.get("id") or "",
            function.get("name") or "",
            function.get("arguments") or "",
        )
