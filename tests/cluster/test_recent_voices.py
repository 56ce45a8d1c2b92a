from __future__ import annotations

from app.observability.request_log import RequestRecord
from cluster.recent_voices import RecentVoices


def spoken(voice: str | None, *, admitted: bool = True) -> RequestRecord:
    return RequestRecord("1", "POST", "/tts/generate", admitted=admitted, voice=voice)


def test_the_voices_spoken_last_are_kept() -> None:
    voices = RecentVoices(limit=2)
    for name in ("a", "b", "a", "c"):
        voices.ended(spoken(name))
    assert voices.ids() == ["a", "c"]


def test_a_request_that_was_not_spoken_or_names_no_voice_does_not_count() -> None:
    voices = RecentVoices()
    voices.ended(spoken("a", admitted=False))
    voices.ended(spoken(None))
    assert voices.ids() == []
