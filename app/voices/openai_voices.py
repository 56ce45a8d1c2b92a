"""OpenAI's voice names: each is one of the built-in speakers."""

from __future__ import annotations

from ..errors import UnknownVoice
from .store import VoiceStore
from .watched_storage import StorageLost

# In the order of their release: the N-th is speaker_N. Never reorder them.
OPENAI_VOICES = (
    *("alloy", "echo", "fable", "onyx", "nova", "shimmer"),
    *("ash", "coral", "sage", "ballad", "verse", "marin", "cedar"),
)


def resolve_voice_id(store: VoiceStore, name: str) -> str:
    """The voice id of a name: a recording takes precedence over OpenAI's voice. Blocks: call it in a thread.

    Raises what VoiceStore.get raises for a recording, but not for one that is unknown.
    """
    if name.lower() not in OPENAI_VOICES:
        return name
    try:
        store.get(name)
    except (UnknownVoice, StorageLost) as error:
        if isinstance(error, StorageLost) and not error.unlisted:
            raise
        return f"speaker_{OPENAI_VOICES.index(name.lower())}"
    return name
