"""The answer where no language model is configured: the user's own words."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from .language_model import Answer, ChatRequest, Finished, TextDelta


class EchoModel:
    name = "echo"

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Answer, None]:
        """The text of the newest message of the user."""
        spoken = [each["content"] for each in request.messages if each["role"] == "user"]
        if spoken and (text := _text_of(spoken[-1])):
            yield TextDelta(text)
        yield Finished()

    async def close(self) -> None:
        pass


def _text_of(content: str | list[dict[str, Any]]) -> str:
    if isinstance(content, str):
        return content
    return " ".join(part["text"] for part in content if part.get("type") == "text")
