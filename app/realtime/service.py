"""What the conversations of one worker share: models, limits and counts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from ..audio.thread_pool import run_in_thread
from ..errors import Busy, ComponentFailed
from ..llm.echo import EchoModel
from ..llm.language_model import LanguageModel
from ..pool.worker_registry import WorkerRecord
from ..state import AppState
from ..stt.transcriber import Transcriber
from .smart_turn import SmartTurn, find_weights
from .vad import SileroVad

_log = logging.getLogger(__name__)

DEFAULT_INSTRUCTIONS = (
    "You are a friendly voice assistant. What you write is spoken: answer in one to three short sentences of plain "
    "words, without lists, headings or Markdown."
)


@dataclass
class RealtimeService:
    """sessions: how many conversations this worker has; a new one beyond max_sessions is refused."""

    state: AppState
    language_model: LanguageModel
    transcriber: Transcriber
    max_sessions: int
    sessions: int = field(default=0, init=False)
    _vad: asyncio.Future[SileroVad] | None = field(default=None, init=False)
    _smart_turn: asyncio.Future[SmartTurn | None] | None = field(default=None, init=False)

    @property
    def echoes(self) -> bool:
        return isinstance(self.language_model, EchoModel)

    @property
    def instructions(self) -> str:
        return self.state.settings.llm_instructions or DEFAULT_INSTRUCTIONS

    @contextmanager
    def session(self) -> Iterator[None]:
        """Count a conversation. Raises Busy if there are too many."""
        if self.sessions >= self.max_sessions:
            raise Busy(
                f"this worker has {self.sessions} conversations, its limit (REALTIME_SESSIONS_PER_WORKER): try again "
                "when one has ended",
                code="too_many_sessions",
                retry_after=5,
            )
        self.sessions += 1
        try:
            yield
        finally:
            self.sessions -= 1

    async def load_vad(self) -> SileroVad:
        """The voice activity detection, loaded once. Raises ComponentFailed."""
        if self._vad is None:
            self._vad = asyncio.ensure_future(run_in_thread(SileroVad))
        try:
            return await asyncio.shield(self._vad)
        except ComponentFailed:
            self._vad = None  # the next session tries again
            raise

    async def load_smart_turn(self) -> SmartTurn | None:
        """What tells a finished turn from a pause, loaded once; None where it is off, not installed or unusable."""
        if self._smart_turn is None:
            self._smart_turn = asyncio.ensure_future(run_in_thread(self._read_smart_turn))
        return await asyncio.shield(self._smart_turn)

    def _read_smart_turn(self) -> SmartTurn | None:
        weights = self._smart_turn_weights
        try:
            return None if weights is None else SmartTurn(weights)
        except ComponentFailed as error:
            _log.warning("turns of semantic_vad end by silence alone: %s", error)
            self._smart_turn_weights = None  # what `describe` tells
            return None

    @cached_property
    def _smart_turn_weights(self) -> Path | None:
        return find_weights() if self.state.settings.smart_turn else None

    async def close(self) -> None:
        await self.language_model.close()
        await self.transcriber.close()

    @property
    def model(self) -> str:
        """The name of the engine's model."""
        return self._engine.model if self._engine else "csm-1b"

    @property
    def _engine(self) -> WorkerRecord | None:
        """The worker of the first engine that is ready."""
        return next((each for each in self.state.pool.registry.engines() if each.engine), None)

    def describe(self) -> dict[str, str]:
        """What answers here, for `session.created`."""
        described = {
            "engine": self._engine.engine if self._engine else "starting",
            "llm": self.language_model.name,
            "stt": self.transcriber.name,
            "end_of_turn": "smart-turn" if self._smart_turn_weights else "silence",
        }
        if self.echoes:
            described["note"] = "No language model is configured (LLM_BASE_URL): this service repeats what it hears."
        return described
