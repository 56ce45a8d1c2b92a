"""Chooses the language model that the settings name."""

from __future__ import annotations

from ..settings import Settings
from .chat_completions import ChatCompletions
from .echo import EchoModel
from .language_model import LanguageModel


def choose_language_model(settings: Settings) -> LanguageModel:
    """The model at LLM_BASE_URL; without one, the echo."""
    if settings.llm_base_url is None:
        return EchoModel()
    key = settings.llm_api_key
    return ChatCompletions(
        settings.llm_base_url,
        None if key is None else key.get_secret_value(),
        settings.llm_model,
        settings.llm_timeout_seconds,
    )
