"""Engine loader: chooses a worker's engine by its settings, and builds it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from engine import (
    AUTO_SLOTS,
    CPU_SLOTS,
    FALLBACK_MODEL,
    HOW_TO_GET_WEIGHTS,
    KOKORO_MODEL,
    CheckpointNotFound,
    Engine,
    EngineConfig,
    EngineError,
    Progress,
    load_engine,
)
from engine.testing import FAKE_MODEL, FakeEngine

from ..settings import DEFAULT_MODEL, Settings
from .assignment import WorkerAssignment

_log = logging.getLogger(__name__)

SMALL_MODEL = Path(__file__).resolve().parents[2] / "models" / "csm-mini"
FALLBACKS = (KOKORO_MODEL, FALLBACK_MODEL)  # the engines used without CSM's weights, the first that loads

Loader = Callable[[EngineConfig, Progress], Engine]


def preloaded_voices_of(settings: Settings) -> Path:
    """The folder of preloaded voices: of csm-mini the recordings it was trained on, since it imitates no others."""
    is_default = settings.preloaded_voices_dir == Settings.model_fields["preloaded_voices_dir"].default
    if is_default and settings.model_path in (SMALL_MODEL.name, str(SMALL_MODEL)):
        return SMALL_MODEL / "voices"
    return settings.preloaded_voices_dir


class EngineLoader:
    """Builds the engine that the settings name, or a fallback without CSM's weights.

    load: builds an engine from a config.
    """

    def __init__(self, settings: Settings, assignment: WorkerAssignment, load: Loader = load_engine) -> None:
        self._settings = settings
        self._assignment = assignment
        self._load = load

    def load(self, report: Progress) -> tuple[Engine, str]:
        """The configured engine and the name of its model. Only without MODEL_PATH is a fallback used."""
        configured = self._settings.model_path
        if configured is not None and configured.partition(":")[0] == FAKE_MODEL:
            slots = self._settings.concurrent_requests_per_worker or CPU_SLOTS
            return FakeEngine.load(configured, slots, self._settings.audio_queue_slices, report), FAKE_MODEL
        model = configured or DEFAULT_MODEL
        if model == SMALL_MODEL.name and not Path(model).exists():
            model = str(SMALL_MODEL)
        try:
            return self._load(self._config(model), report), Path(model).name
        except CheckpointNotFound as error:
            if configured is not None:
                raise CheckpointNotFound(f"MODEL_PATH={configured}: {error}") from error
            reason = with_advice(str(error))
            if self._settings.fallback_engine == "none":
                raise CheckpointNotFound(f"FALLBACK_ENGINE=none, and CSM's weights are missing: {reason}") from error
        return self._load_fallback(reason, report)

    def _load_fallback(self, reason: str, report: Progress) -> tuple[Engine, str]:
        """The engine used without CSM's weights: the neural voice, or espeak-ng where it cannot be loaded."""
        chain = FALLBACKS[FALLBACKS.index(self._settings.fallback_engine) :]
        for name in chain[:-1]:
            try:
                engine = self._load(self._config(name), report)
            except EngineError as error:
                _log.warning("the fallback voice %s cannot be loaded: %s", name, error)
            else:
                _log.warning("using the fallback voice, %s: CSM's weights are missing: %s", name, reason)
                return engine, name
        _log.warning("using the fallback voice, %s: CSM's weights are missing: %s", chain[-1], reason)
        return self._load(self._config(chain[-1]), report), chain[-1]

    def _config(self, model: str) -> EngineConfig:
        settings = self._settings
        pinned = self._assignment.gpu is not None and settings.device.startswith("cuda")
        return EngineConfig(
            model=model,
            device="cuda" if pinned else settings.device,  # the worker sees its own GPU and no other
            dtype=settings.dtype,
            depth_weights=settings.depth_weights,
            slots=settings.concurrent_requests_per_worker or AUTO_SLOTS,
            prompt_streams=settings.cuda_streams or 0,
            workers=self._assignment.workers,
            compile=settings.compile,
            fast_start=settings.fast_start == "on",
            audio_queue_slices=settings.audio_queue_slices,
            kokoro_voices="" if settings.kokoro_voices.lower() == "off" else settings.kokoro_voices,
            hub_token=None if settings.hf_token is None else settings.hf_token.get_secret_value(),
        )


def with_advice(reason: str) -> str:
    """The reason why weights are missing, and how to get them unless it says so already."""
    return reason if HOW_TO_GET_WEIGHTS in reason else f"{reason}. {HOW_TO_GET_WEIGHTS}"
