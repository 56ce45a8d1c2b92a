"""The interface of a language model: a conversation in, its answer streamed out."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class ChatRequest:
    """messages, tools, tool_choice: as OpenAI's chat completions have them."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] = field(default_factory=list)
    tool_choice: str | dict[str, Any] = "auto"
    max_tokens: int | None = None
    temperature: float | None = None


@dataclass(frozen=True)
class TextDelta:
    text: str


@dataclass(frozen=True)
class ToolCallDelta:
    """A piece of a function call. index: which of the answer's calls. name, call_id: in its first piece."""

    index: int
    call_id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True)
class Finished:
    """The end of an answer. reason: as of chat completions ("stop", "length", "content_filter", "tool_calls").

    input_tokens, output_tokens: None if the model does not count them.
    """

    reason: str = "stop"
    input_tokens: int | None = None
    output_tokens: int | None = None


Answer = TextDelta | ToolCallDelta | Finished


class LanguageModel(Protocol):
    @property
    def name(self) -> str: ...

    def stream(self, request: ChatRequest) -> AsyncGenerator[Answer, None]:
        """The answer, piece by piece; its last piece is Finished. Closing it ends the request.

        Raises ServiceError with the code llm_failed, llm_timeout or llm_refused.
        """
        ...

    async def close(self) -> None: ...
