"""What a response answers, and how."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..schemas.speech import SpeechJob
from .config import SessionConfig
from .conversation import Entry
from .latency import TurnLatency


@dataclass(frozen=True)
class ResponsePlan:
    """What to answer, and how.

    job: the speech, but for its text and history. entries: the items to answer.
    turn: the user's turn that it answers by itself; None if the client asked for it.
    in_conversation: the response becomes part of the conversation.
    assistant, user: speaker ids of the two sides.
    """

    config: SessionConfig
    job: SpeechJob
    entries: list[Entry]
    latency: TurnLatency
    assistant: int
    user: int
    turn: Entry | None = None
    in_conversation: bool = True
    metadata: dict[str, str] = field(default_factory=dict)
