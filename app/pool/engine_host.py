"""The engine of this worker: loaded in the background, watched, and handed out once it can speak."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine import (
    AUTO_SLOTS,
    CPU_SLOTS,
    FALLBACK_MODEL,
    CheckpointNotFound,
    Engine,
    EngineConfig,
    EngineError,
    Progress,
    VoicePrompt,
    load_engine,
)
from engine.testing import FAKE_MODEL, FakeEngine

from ..errors import Busy, ServiceError, Unavailable, UnknownVoice
from ..observability.components import Components
from ..settings import DEFAULT_MODEL, Settings
from ..voices.speakers import SpeakerVoices, speaker_number
from ..voices.store import Voice, VoiceStore
from .admission import Admission
from .assignment import WorkerAssignment
from .worker_registry import RestartDelay

_log = logging.getLogger(__name__)

DEFAULT_SPEAKER = "speaker_0"
SMALL_MODEL = Path(__file__).resolve().parents[2] / "models" / "csm-mini"
_LOADED = 0.8  # the share of the start that loading the model is taken for; voices are the rest

Loader = Callable[[EngineConfig, Progress], Engine]


@dataclass(frozen=True)
class HostStatus:
    """How far the engine is.

    restarting: it waits before it loads, since its worker crashed before. progress: from 0 to 1.
    error: why it failed, for people.
    """

    state: Literal["restarting", "loading", "ready", "failed", "closed"]
    progress: float = 0.0
    doing: str = ""
    error: str | None = None
    engine: str | None = None  # its name, once it is there
    model: str | None = None  # what it speaks with, as people call it


@dataclass(frozen=True)
class ResolvedVoice:
    """Who speaks: a recording to speak like (None: the engine has its own), and a speaker number."""

    voice: VoicePrompt | None
    speaker: int


@dataclass(frozen=True)
class _Stage:
    """What there is once the engine can speak."""

    engine: Engine
    admission: Admission
    speakers: SpeakerVoices | None  # None: the engine has voices of its own for them


class EngineHost:
    """Starts the engine in a thread, so that /health answers from the first moment on.

    loader: builds an engine of a config; another one in tests.
    small_model: the directory of the CSM that stands in where there are no weights; it need not be there.
    on_change: called, from any thread, whenever `status` or `load` have something new to say.
    on_voice_encoded: called, from any thread, for each voice on disk that was encoded at the start.
    check: called from the loading thread before the engine is ready, to look whether `components` work.
    components: what this worker has beside the engine.
    """

    def __init__(
        self,
        settings: Settings,
        place: WorkerAssignment,
        voices: VoiceStore,
        loader: Loader = load_engine,
        small_model: Path = SMALL_MODEL,
        components: Components | None = None,
    ) -> None:
        self._settings = settings
        self._place = place
        self._voices = voices
        self._loader = loader
        self._small_model = small_model
        self.on_change: Callable[[], None] = lambda: None
        self.on_voice_encoded: Callable[[], None] = lambda: None
        self.check: Callable[[], None] = lambda: None
        self.components = components or Components()
        self._status = HostStatus("loading", doing="starting")
        self._advanced = time.monotonic()  # when loading last got anywhere
        self._stage: _Stage | None = None
        self._closing = threading.Event()
        self._changing = threading.Lock()  # the end of loading against close()
        self._loading: threading.Thread | None = None

    # ---- what the routes ask

    def status(self) -> HostStatus:
        """A snapshot that waits for nothing. An engine that broke after it was ready has failed."""
        status, stage = self._status, self._stage
        if status.state == "ready" and stage is not None:
            error = stage.engine.status().error
            if error is not None:
                return HostStatus("failed", 1.0, "broken", error, status.engine, status.model)
        return status

    def load(self) -> tuple[int, int, int]:
        """How many slots there are, how many speak, how many requests wait; zeros until the engine is ready."""
        stage = self._stage
        return (0, 0, 0) if stage is None else (stage.engine.slots, stage.admission.active, stage.admission.queued)

    def stalled_seconds(self) -> float:
        """How long nothing has come of what it is doing: of loading, or of speech that somebody waits for."""
        if self._status.state == "loading":
            return time.monotonic() - self._advanced
        stage = self._stage
        return 0.0 if stage is None else stage.engine.status().stalled_seconds

    @property
    def broken(self) -> bool:
        """The engine was ready and can speak no more: only another process could."""
        stage = self._stage
        return stage is not None and stage.engine.status().error is not None

    @property
    def engine(self) -> Engine:
        """Raises Unavailable unless it can speak."""
        return self._ready().engine

    @property
    def admission(self) -> Admission:
        """Raises Unavailable unless the engine can speak."""
        return self._ready().admission

    def resolve_voice(self, voice_id: str | None) -> ResolvedVoice:
        """Find who speaks under an id; without one, speaker 0. Blocks: call it in a thread.

        Raises UnknownVoice, Unavailable, EngineError if a speaker's voice has to be made and cannot be.
        """
        stage, voice_id = self._ready(), voice_id or DEFAULT_SPEAKER
        try:
            prompt = self._voices.get(voice_id).prompt
            return ResolvedVoice(prompt, prompt.speaker or 0)
        except UnknownVoice:
            speaker = speaker_number(voice_id)
            if speaker is None:
                raise
        return ResolvedVoice(None if stage.speakers is None else stage.speakers.get(speaker), speaker)

    def _ready(self) -> _Stage:
        status, stage = self.status(), self._stage
        if status.state == "ready" and stage is not None:
            return stage
        if status.state in ("loading", "restarting"):
            raise Unavailable(f"the engine is starting ({status.progress:.0%}, {status.doing}): try again soon")
        if status.state == "closed":
            raise Unavailable("this worker is shutting down: try again soon", code="draining")
        raise Unavailable(f"the engine of this worker has failed: {status.error}", code="engine_failed")

    # ---- its life

    def start(self, on_ready: Callable[[], None] | None = None, pause: RestartDelay | None = None) -> None:
        """Begin to load, behind a pause if there is one. on_ready: called from the loading thread."""
        if pause is not None:
            self._status = HostStatus(pause.state, doing="waiting to start again", error=pause.error)
        self._loading = threading.Thread(target=self._load, args=(on_ready, pause), name="load-engine", daemon=True)
        self._loading.start()

    def stop_admitting(self) -> None:
        """Admit nobody any more and tell who waits for a slot; who has one speaks on."""
        if (stage := self._stage) is not None:
            stage.admission.close()

    def close(self) -> None:
        """Stop the engine and wait for it. One that is still loading is closed as soon as it is there."""
        self._closing.set()
        with self._changing:
            self._status = HostStatus("closed")
            stage, self._stage = self._stage, None
        if stage is not None:
            stage.engine.close()

    def _report(self, progress: float, doing: str) -> None:
        status = HostStatus("loading", round(min(max(progress, 0.0), 1.0), 3), doing)
        with self._changing:
            if self._status.state != "loading" or status == self._status:
                return
            self._status, self._advanced = status, time.monotonic()
        self.on_change()

    def _load(self, on_ready: Callable[[], None] | None, pause: RestartDelay | None) -> None:
        if pause is not None:
            if self._closing.wait(pause.seconds):
                return
            with self._changing:
                if self._status.state != "closed":
                    self._status, self._advanced = HostStatus("loading", doing="starting"), time.monotonic()
        try:
            engine, model = self._build()
            try:
                stage = self._furnish(engine)
            except BaseException:
                engine.close()
                raise
        except Exception as error:  # whatever it is, /health has to tell it
            expected = isinstance(error, EngineError | ServiceError)
            _log.error("the engine cannot start: %s", error, exc_info=not expected)
            with self._changing:
                if self._status.state == "loading":
                    self._status = HostStatus("failed", self._status.progress, "failed", str(error) or repr(error))
            self.on_change()
            return
        with self._changing:
            if closed := self._status.state == "closed":
                pass
            else:
                self._stage = stage
                self._status = HostStatus("ready", 1.0, "ready", engine=engine.name, model=model)
        if closed:
            engine.close()
            return
        self.on_change()
        _log.info("ready: %s speaks, %d at once", engine.name, engine.slots)
        if on_ready is not None:
            on_ready()

    def _build(self) -> tuple[Engine, str]:
        """The engine that the settings ask for, and what it speaks with. Others stand in only where none was named."""
        named = self._settings.model_path
        if named is not None and named.partition(":")[0] == FAKE_MODEL:
            slots = self._settings.concurrent_requests_per_worker or CPU_SLOTS
            return FakeEngine.load(named, slots, self._settings.audio_queue_slices, self._report_loading), FAKE_MODEL
        model = named or DEFAULT_MODEL
        try:
            return self._loader(self._config(model), self._report_loading), Path(model).name
        except CheckpointNotFound as error:
            if named is not None:
                raise CheckpointNotFound(f"MODEL_PATH={named}: {error}") from error
            why = with_advice(str(error))
            if self._settings.fallback_engine == "none":
                raise CheckpointNotFound(f"FALLBACK_ENGINE=none, and CSM's weights are not here: {why}") from error
        return self._build_stand_in(why)

    def _build_stand_in(self, why: str) -> tuple[Engine, str]:
        """Who speaks while CSM's weights are not here: a small CSM if it is, else the fallback voice."""
        if (self._small_model / "config.json").is_file():
            try:
                engine = self._loader(self._config(str(self._small_model)), self._report_loading)
            except EngineError as error:
                _log.warning("%s cannot speak: %s", self._small_model, error)
            else:
                name = self._small_model.name
                _log.warning("%s, a small demonstration voice, speaks: CSM's weights are not here: %s", name, why)
                return engine, name
        fallback = self._settings.fallback_engine
        _log.warning("the fallback voice, %s, speaks: CSM's weights are not here: %s", fallback, why)
        return self._loader(self._config(FALLBACK_MODEL), self._report_loading), fallback

    def _report_loading(self, share: float, what: str) -> None:
        self._report(share * _LOADED, what)

    def _config(self, model: str) -> EngineConfig:
        settings = self._settings
        pinned = self._place.gpu is not None and settings.device.startswith("cuda")
        return EngineConfig(
            model=model,
            device="cuda" if pinned else settings.device,  # the worker sees its own GPU and no other
            dtype=settings.dtype,
            depth_weights=settings.depth_weights,
            slots=settings.concurrent_requests_per_worker or AUTO_SLOTS,
            workers=self._place.workers,
            compile=settings.compile,
            audio_queue_slices=settings.audio_queue_slices,
            hub_token=None if settings.hf_token is None else settings.hf_token.get_secret_value(),
        )

    def _furnish(self, engine: Engine) -> _Stage:
        """Everything that is made once, before the first request: speaker 0 and the voices on disk."""
        settings = self._settings
        speakers = None
        if engine.name == "csm":
            detail = engine.status().detail
            fingerprint = str(detail.get("fingerprint") or settings.model_path or DEFAULT_MODEL)
            speakers = SpeakerVoices(
                engine, settings.voices_dir / ".speakers", fingerprint, self.components.reporter("speaker_voices")
            )
            self._report(_LOADED, f"making the voice of {DEFAULT_SPEAKER}")
            speakers.get(0)
        self._encode_voices(engine)
        self.check()
        admission = Admission(
            engine.slots, settings.max_queued_requests, settings.queue_timeout_seconds, self.on_change
        )
        return _Stage(engine, admission, speakers)

    def _encode_voices(self, engine: Engine) -> None:
        count, usable, failed = len(self._voices.ids()), 0, 0
        for done, (voice_id, voice) in enumerate(self._all_voices()):
            self._report(_LOADED + (1 - _LOADED) * min(done / max(count, 1), 1.0), f"encoding voice {voice_id}")
            try:
                if isinstance(voice, ServiceError):
                    raise voice
                engine.prepare_voice(voice.prompt)
                usable += 1
                self.on_voice_encoded()
            except (EngineError, ServiceError) as error:
                failed += 1
                _log.warning("voice %s is skipped: %s", voice_id, error)
        if not failed:
            _log.info("%d voices encoded", usable)
        elif usable:
            _log.warning("%d of %d voices encoded: the lines above say why not all", usable, usable + failed)
        else:
            _log.error("none of %d voices could be encoded: the lines above say why", failed)

    def _all_voices(self) -> Iterator[tuple[str, Voice | ServiceError]]:
        """The voices on disk; none where uploads keep the decoders busy: each is decoded at its first request then."""
        try:
            yield from self._voices.load_all()
        except Busy as error:
            _log.warning("voices are not encoded ahead: %s", error)


def with_advice(why: str) -> str:
    """Why there are no weights, and how to get them, where the engine has not said so already."""
    if "HF_TOKEN" in why:
        return why
    return (
        f"{why}. To hear CSM, set MODEL_PATH to a directory with its weights, or HF_TOKEN to a token of a hub account "
        f"with access to https://huggingface.co/{DEFAULT_MODEL}, and start again."
    )
